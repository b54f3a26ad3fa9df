"""The addresses of a From field (RFC 5322 section 3.4 and its obsolete forms).

Display names are skipped, never interpreted: what stands in quotes, comments or
encoded words is no address. Nothing is guessed: a field that has two readings has none.
"""

import re
from dataclasses import dataclass, field

from smtpproxy.mail.address import AddressError, canonical, compose
from smtpproxy.mail.text import CommentError, skip_cfws

# What nearly every message has: one address, alone or in brackets behind a plain name.
_PLAIN = re.compile(
    rb"(?:(?:[A-Za-z0-9 \t!#$%&'*+/=?^_`{|}~.\x80-\xff-]*|\"[^\"\\\r\n]*\"[ \t]*)"
    rb"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+)>"
    rb"|([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+))"
)

_TOKEN = re.compile(
    r"""(?P<atom>[^\x00-\x20\x7f()<>\[\]:;@\\,."]+)
      | (?P<special>[<>:;@,.])
      | (?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<literal>\[[^\[\]\\]*\])""",
    re.VERBOSE | re.DOTALL,
)

_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_ROUTE = re.compile(r",*@[^@,\"]+(?:,(?:@[^@,\"]+)?)*")
_LONGEST = 16_384  # octets: a From field beyond this is read by nobody

_Token = tuple[str, str]  # kind, text; the kind of a special is the special itself


class MailboxError(ValueError):
    """A field that cannot be read as a list of mailboxes; the message says why."""


def addresses(value: bytes) -> tuple[str, ...]:
    """Return the canonical address of every mailbox in an unfolded field value, in order.

    Members of groups count (RFC 6854), source routes do not. Raises `MailboxError` when
    the value cannot be read or holds an address that is none; a value without any
    mailbox gives an empty tuple.
    """
    if len(value) > _LONGEST:
        raise MailboxError(f"the field is longer than {_LONGEST} octets")
    plain = _PLAIN.fullmatch(value)
    try:
        if plain is not None:
            return (canonical((plain[1] or plain[2]).decode("ascii")),)
        return _Reader().read(_tokens(value.decode("utf-8", "surrogateescape")))
    except (AddressError, CommentError) as error:
        raise MailboxError(str(error)) from None


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = skip_cfws(text, 0)
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None and text[position] == '"':
            raise MailboxError("a quoted string is opened and not closed")
        if token is None:
            raise MailboxError(
                f"{_named(text[position])} stands outside quotes: put the name in double quotes"
            )
        kind = token.lastgroup or ""
        tokens.append((token[0] if kind == "special" else kind, token[0]))
        position = skip_cfws(text, token.end())
    return tokens


@dataclass(slots=True)
class _Reader:
    """Walks over the tokens once, keeping what has come since the last delimiter."""

    found: list[str] = field(default_factory=list)
    pending: list[_Token] = field(default_factory=list)
    in_group: bool = False
    in_brackets: bool = False
    closed: bool = False  # a mailbox or group has ended: only a delimiter may follow

    def read(self, tokens: list[_Token]) -> tuple[str, ...]:
        for token in tokens:
            self._take(token)
        if self.in_brackets:
            raise MailboxError("an address is opened with < and not closed with >")
        if self.in_group:
            raise MailboxError("a group is opened with : and not closed with ;")
        self._end_mailbox()
        return tuple(self.found)

    def _take(self, token: _Token) -> None:
        kind = token[0]
        if self.in_brackets:
            self._take_in_brackets(token)
        elif kind == ",":
            self._end_mailbox()
        elif kind == ";":
            if not self.in_group:
                raise MailboxError("a ; without a group: put the name in double quotes")
            self._end_mailbox()
            self.in_group, self.closed = False, True
        elif self.closed:
            raise MailboxError("a comma is missing between two addresses")
        elif kind == ">":
            raise MailboxError("a > without a <: put the name in double quotes")
        elif kind == "<":
            _check_phrase(self.pending)
            self.pending, self.in_brackets = [], True
        elif kind == ":":
            if self.in_group or not self.pending:
                raise MailboxError("a : without a group name: put the name in double quotes")
            _check_phrase(self.pending)
            self.pending, self.in_group = [], True
        else:
            self.pending.append(token)

    def _take_in_brackets(self, token: _Token) -> None:
        match token[0]:
            case ">" if not self.pending:
                raise MailboxError("there is no address between < and >")
            case ">":
                self.found.append(_address(_without_route(self.pending)))
                self.pending, self.in_brackets, self.closed = [], False, True
            case "<" | ";":
                raise MailboxError(f"a {token[0]} inside < >")
            case _:
                self.pending.append(token)

    def _end_mailbox(self) -> None:
        """A comma, a semicolon or the end: nothing is pending, or a bare address is."""
        if self.pending:
            self.found.append(_address(self.pending))
        self.pending, self.closed = [], False


def _check_phrase(tokens: list[_Token]) -> None:
    for kind, text in tokens:
        if kind not in ("atom", "quoted", "."):
            raise MailboxError(f"{_named(text[0])} stands in a name: put the name in double quotes")


def _without_route(tokens: list[_Token]) -> list[_Token]:
    """A source route (RFC 5322 4.4) says nothing of who writes: it is only skipped."""
    kinds = [kind for kind, _ in tokens]
    if ":" not in kinds:
        return tokens
    colon = kinds.index(":")
    if _ROUTE.fullmatch("".join(text for _, text in tokens[:colon])) is None:
        raise MailboxError("a : inside < >")
    return tokens[colon + 1 :]


def _address(tokens: list[_Token]) -> str:
    """Return the canonical address of an addr-spec's tokens."""
    at = [i for i, (kind, _) in enumerate(tokens) if kind == "@"]
    if len(at) != 1:
        raise MailboxError(
            "an address has one @: local-part@domain" if at else "a name without an address"
        )
    local, domain = tokens[: at[0]], tokens[at[0] + 1 :]
    if not local or not domain:
        raise MailboxError("an address is local-part@domain")
    if [kind for kind, _ in domain] == ["literal"]:
        return compose(_dotted(local, "quoted"), domain[0][1])
    return compose(_dotted(local, "quoted"), _dotted(domain))


def _dotted(tokens: list[_Token], *also: str) -> str:
    """Join words with dots between them; comments and spaces are gone (RFC 5322 4.4)."""
    words = []
    after_word = False
    for kind, text in tokens:
        if kind != ".":
            if kind != "atom" and kind not in also:
                raise MailboxError(f"{_named(text[0])} stands in an address")
            if after_word:
                raise MailboxError("a space stands in an address")
        after_word = kind != "."
        words.append(_QUOTED_PAIR.sub(r"\1", text[1:-1]) if kind == "quoted" else text)
    return "".join(words)


def _named(character: str) -> str:
    return character if " " < character <= "~" else f"the character U+{ord(character):04X}"
