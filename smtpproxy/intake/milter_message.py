"""What the milter intake asks of an MTA, what MTAs do differently, and one message as a milter is
told of it: header fields, then octets of body.
"""

from collections.abc import Callable

from smtpproxy.core.advice import MilterTransaction
from smtpproxy.core.content_checks import READ_LIMIT
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.content import Body, Content, Spool
from smtpproxy.wire.milter_packets import Actions, Header, Stage, Steps
from smtpproxy.wire.session import ContentProblem, HeaderLimits

ACTIONS = Actions.CHANGE_HEADERS | Actions.DELETE_RECIPIENTS | Actions.SET_MACROS
STEPS = (
    Steps.NO_DATA
    | Steps.NO_UNKNOWN
    | Steps.NO_END_OF_HEADERS
    | Steps.UNANSWERED_CONNECT
    | Steps.UNANSWERED_HELO
    | Steps.UNANSWERED_MAIL
    | Steps.UNANSWERED_HEADERS
    | Steps.UNANSWERED_BODY
    | Steps.LEADING_SPACE
)
"""Only RCPT and the end of a message need an answer."""

MACROS = {
    Stage.CONNECT: ("v", "{client_addr}"),
    Stage.MAIL: ("i", "{auth_authen}"),
    Stage.RCPT: ("{rcpt_mailer}",),
    Stage.END_OF_MESSAGE: ("i",),
}

_SMTP_MAILERS = frozenset({"smtp", "esmtp", "smtp8", "dsmtp", "relay"})
"""Sendmail's own, which know no aliases; which others do is a matter of its configuration."""

Macro = Callable[[str], str | None]
"""The value of a macro, None where the MTA did not tell it."""


def is_postfix(macro: Macro) -> bool:
    return (macro("v") or "").startswith("Postfix")


def without_smtp(macro: Macro) -> bool:
    """Whether mail came to Postfix by no SMTP session (non_smtpd_milters).

    Asked at MAIL. Then a refusal at RCPT is a fault of the configuration to Postfix, and jams
    the message; the verdict has to wait for its end. Nor can a recipient be taken away by what
    we are told: Postfix adds domains first, and looks for what the program wrote. Only there
    is a queue id before the first recipient.
    """
    return bool(macro("i")) and is_postfix(macro)


def forgets_recipient(macro: Macro) -> bool:
    """Whether the MTA may not find this recipient again when it is to be taken away.

    Asked at RCPT. Sendmail expands the aliases of its local mailers at once, and then sends to
    whom they lead, whatever becomes of the recipient; Postfix does it afterwards.
    """
    return not is_postfix(macro) and macro("rcpt_mailer") not in _SMTP_MAILERS


def mails_refused(macro: Macro, path: str) -> bool:
    """Whether the MTA may mail somebody whom it was told to refuse at RCPT, or forget another.

    Sendmail looks by the path, read as a list, for whom to take away again: a path with commas
    that is no single address can hit others, and miss the one it meant.
    """
    return "," in path and not is_postfix(macro)


def client_address(macro: Macro, family: str, address: str) -> str:
    """The IP address of the MTA's client, or `unix`, or `unknown`."""
    if family == "L":
        return "unix"
    found = macro("client_addr") or address or "unknown"
    return found[5:] if found[:5].lower() == "ipv6:" else found


class MilterMessage:
    """Keeps the header section, and of the body its size and whether it holds a NUL.

    The beginning of the body is kept where a stream asks for its text. Both go to the spool as
    content that is relayed does; `close` lets go of them. What is beyond a limit is not kept.
    """

    __slots__ = (
        "_fields",
        "_header_size",
        "_limits",
        "_problem",
        "_reads_body",
        "_section",
        "_separator",
        "_text",
        "refusal",
        "refused",
        "size",
        "transaction",
    )

    def __init__(
        self,
        transaction: MilterTransaction,
        spool: Spool,
        limits: HeaderLimits,
        *,
        leading_space: bool,
    ) -> None:
        """`leading_space`: values come with the space after the colon (HDR_LEADSPC)."""
        self.transaction = transaction
        self.refusal: Reply | None = None  # for the sender's sake
        self.refused = 0  # recipients
        self.size = 2  # the empty line
        self._problem: ContentProblem | None = None
        self._separator = b":" if leading_space else b": "
        self._limits = limits
        self._header_size = 0
        self._fields = 0
        self._section = Content(spool)
        self._text = Content(spool)
        self._reads_body: bool | None = None  # known once the header is complete

    def add_field(self, header: Header) -> None:
        """Take a field; MTAs end the lines of a folded value with LF. Raises OSError."""
        value = header.value
        folds = value.count(b"\n") - value.count(b"\r\n")
        size = len(header.name) + len(self._separator) + len(value) + folds + 2
        self.size += size
        if self._problem is not None:
            return
        self._header_size += size
        self._fields += 1
        if self._fields > self._limits.fields:
            self._problem = ContentProblem.TOO_MANY_FIELDS
        elif self._header_size > self._limits.size:
            self._problem = ContentProblem.HEADER_TOO_LARGE
        else:
            if b"\n" in value:
                value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            self._section.append(b"%b%b%b\r\n" % (header.name, self._separator, value))

    def add_body(self, chunk: bytes) -> None:
        """Take a piece of the body. Raises OSError."""
        self.size += len(chunk)
        if b"\0" in chunk:
            self._problem = self._problem or ContentProblem.NUL
        if self._reads_body is None:
            self._reads_body = self.transaction.reads_body(self.header())
        if self._reads_body and self._text.size <= READ_LIMIT:
            self._text.append(chunk)

    def problem(self, size_limit: int) -> ContentProblem | None:
        """Why it cannot be taken, once all of it was told."""
        return ContentProblem.TOO_LARGE if self.size > size_limit else self._problem

    def text(self) -> Body | None:
        """The beginning of the body, where it is asked for."""
        if not self._reads_body:
            return None
        return Body(self._text.pieces, self._text.size)

    def header(self) -> bytes:
        """The header section with its empty line, where it is not beyond a limit."""
        return b"".join(self._section.pieces()) + b"\r\n"

    def close(self) -> None:
        self._section.close()
        self._text.close()
