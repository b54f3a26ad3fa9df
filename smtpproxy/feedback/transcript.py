"""What a bounce says in its text: which recipients it names, and what became of the mail to them.

Most MTAs (qmail, Exim, Postfix, sendmail, Yahoo, Exchange …) write an introduction, then each
recipient at the head of a paragraph with the reason below or after it, then the message.
"""

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from smtpproxy.feedback.addresses import ADDRESS, found_in, is_of_a_machine, valid
from smtpproxy.feedback.dsn import Outcome

_MAX_LINES = 400
_MAX_RECIPIENTS = 100
_LONGEST_LINE = 1000

# What begins the returned message.
_RETURNED = re.compile(
    r"[\s>*=#+-]*(?:"
    r"(?:-{2,}|={2,}|\*{2,})[\s-]*(?:(?:this|below|enclosed|attachment|attached"
    r"|here) (?:line )?is|original"
    r"|the (?:header|body|original|message)|start of|returned|unsent|message header|forwarded"
    r"|your message"
    r"|message (?:header|text|follows)|undelivered|below this line|header)"
    r"|below (?:this line )?is a copy|original message follows|the original message follows"
    r"|(?:original )?message headers(?: follow)?:|here is a copy of|your message reads"
    r"|a (?:summary|copy) of the (?:undelivered )?message"
    r"|(?:the )?(?:first|header).{0,40}(?:message|mail) follow"
    r"|(?:received|return-path|x-received|delivered-to|dkim-signature): "
    r")",
    re.IGNORECASE,
)
_FOOTER = re.compile(r"\s*(?:_{10,200}|\*{10,200}|~{10,200}|-- ?)\s*")  # mostly a disclaimer
_HEAD = re.compile(
    r"\s*(?:[*>-]{1,3}\s+|rcpt to:\s*|[45]\d\d[ -](?:[45]\.\d{1,3}\.\d{1,3} )?"
    r"|(?:(?!sender|from|your|our)[\w'-]{1,20} ){0,4}"
    r"(?:users?|userid|recipients?|address(?:es|ee)?|mailbox|account|addressed to"
    r"|deliver to):?\s+)?"
    r"[<\"'(\[{*]{0,3}(?:mailto:|smtp:)?"
    + ADDRESS.pattern.removeprefix(r"(?<![\w.@+-])")
    + r"[>\"')\]}*]{0,3}",
    re.IGNORECASE,
)
_REPLY = re.compile(r"\s*[45]\d\d([ -])")
_SECTION = 3  # empty lines that end the text about a recipient
_MADE_FROM = re.compile(
    r"\(?(?:ultimately )?(?:generated|expanded) from:?\s*<?"
    r"|original(?:ly)? address(?:ed)?(?: to)?:?\s",
    re.IGNORECASE,
)
_LOCAL_VERDICT = re.compile(r"\s*5\d\d 5\.1\.1 .{1,300}\.\.\. User unknown\s*", re.IGNORECASE)
_REMOTE_SAID = re.compile(r"<<<\s*[45]\d\d|\(reason: ", re.IGNORECASE)
_FROM_COMMAND = re.compile(r"\bmail from:\s{0,3}<", re.IGNORECASE)
_NOT_ABOUT = re.compile(
    r"\s*(?:from|to|sender|reply-to|cc|date|subject|message-id|return-path|x-[\w-]{1,30})\s*:"
    r"|.{0,80}\b(?:contact|assistance|questions?|help|e?mail us|write to|reach us|send (?:e?mail"
    r"|a message)"
    r"|please (?:e?mail|send|forward)|message from|mail from|sent by|message sent)\b",
    re.IGNORECASE,
)


class Transcript(Struct, frozen=True):
    """What a text says about each recipient that it names, before it names any, and as a whole.

    Action and status of the outcomes are "".
    """

    outcomes: tuple[Outcome, ...]
    preface: str
    whole: str


def read_text(text: str, others: Iterable[str], likely: str | None) -> Transcript:
    """Read a text up to the returned message.

    `others` are addresses that are not recipients: the sender's own and the reporter's. Of several
    that are only mentioned, only the `likely` one is a recipient.
    """
    lines = _spoken(text)
    reader = _Reader(frozenset((*others, *_senders(lines))))
    reader.read(lines)
    return Transcript(
        outcomes=tuple(reader.outcomes(likely)),
        preface=" ".join(reader.preface).strip(),
        whole="\n".join(lines).strip(),
    )


def _spoken(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n", _MAX_LINES)[:_MAX_LINES]:
        if lines and (_RETURNED.match(line[:_LONGEST_LINE]) or _FOOTER.fullmatch(line)):
            break
        lines.append(line[:_LONGEST_LINE].rstrip())
    if any(_REMOTE_SAID.search(line) for line in lines):
        # sendmail itself says "User unknown" about anything that the other server refused.
        lines = [line for line in lines if not _LOCAL_VERDICT.fullmatch(line)]
    return lines


def _senders(lines: Iterable[str]) -> Iterator[str]:
    """Yield the senders named in SMTP commands."""
    for line in lines:
        command = _FROM_COMMAND.search(line)
        if command is not None:
            yield from found_in(line[command.end() :])[:1]


class _Reader:
    """Goes through the lines once; `heads` are recipients with the lines about them."""

    def __init__(self, others: frozenset[str]) -> None:
        self._others = others
        self._said: dict[str, list[str]] = {}
        self._mentioned: dict[str, int] = {}  # at which of the lines below
        self._rest: list[str] = []
        self.preface: list[str] = []
        self._now: str | None = None
        self._empty = 0

    def read(self, lines: list[str]) -> None:
        for line in lines:
            if self._made_from(line):
                continue
            head = _HEAD.match(line)
            address = valid(head[1]) if head is not None else None
            if head is not None and address is not None and self._may_be(address):
                self._begin(address, line)
            else:
                self._go_on(line)

    def outcomes(self, likely: str | None) -> list[Outcome]:
        if self._said:
            return [
                Outcome(address, "", "", " ".join(lines).strip(), _near(lines))
                for address, lines in list(self._said.items())[:_MAX_RECIPIENTS]
            ]
        for address, begin in self._mentioned.items():
            if len(self._mentioned) == 1 or address == likely:
                return [Outcome(address, "", "", " ".join(self._rest[begin:]))]
        return []

    def _begin(self, address: str, line: str) -> None:
        reply = _REPLY.match(line)  # a server's reply is complete, unless it is continued
        self._now = None if reply is not None and reply[1] == " " else address
        self._said.setdefault(address, []).append(line.strip())

    def _go_on(self, line: str) -> None:
        self._empty = 0 if line.strip() else self._empty + 1
        if self._empty >= _SECTION:
            self._now = None
        if self._now is not None:
            self._said[self._now].append(line.strip())
        self._rest.append(line.strip())
        if not self._said:
            self.preface.append(line.strip())
        if not _NOT_ABOUT.match(line):
            for address in found_in(line):
                if self._may_be(address):
                    self._mentioned.setdefault(address, len(self._rest) - 1)

    def _made_from(self, line: str) -> bool:
        """Whether a line names the original recipient, who is then the recipient."""
        found = _MADE_FROM.search(line)
        names = found_in(line[found.end() :]) if found is not None else []
        if found is None or not names:
            return False
        before = found_in(line[: found.start()])
        said = [line.partition(")")[2]] if before else self._said.pop(self._now or "", [])
        self._now = names[0]
        self._said.setdefault(names[0], []).extend(said)
        return True

    def _may_be(self, address: str) -> bool:
        return address not in self._others and not is_of_a_machine(address)


def _near(lines: list[str]) -> str:
    """Return the text next to the recipient: up to the first empty line, but at least one line."""
    end = lines.index("", 1) if "" in lines[1:] else len(lines)
    return " ".join(lines[:end]).strip()
