"""What the milter intake requests of an MTA, how MTAs differ, and one message as a milter gets it:
header fields, then pieces of the body.
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
"""What we request of the MTA: only RCPT and the end of a message need an answer."""

MACROS = {
    Stage.CONNECT: ("v", "{client_addr}"),
    Stage.MAIL: ("i", "{auth_authen}"),
    Stage.RCPT: ("{rcpt_mailer}",),
    Stage.END_OF_MESSAGE: ("i",),
}

_SMTP_MAILERS = frozenset({"smtp", "esmtp", "smtp8", "dsmtp", "relay"})
"""Sendmail's own mailers without aliases; whether others have any depends on its configuration."""

Macro = Callable[[str], str | None]
"""Returns the value of a macro, or None if the MTA did not send it."""


def is_postfix(macro: Macro) -> bool:
    return (macro("v") or "").startswith("Postfix")


def without_smtp(macro: Macro) -> bool:
    """Whether mail came to Postfix without an SMTP session (non_smtpd_milters).

    Asked at MAIL. If so, Postfix treats a refusal at RCPT as a configuration error and keeps the
    message, so the verdict has to wait for its end. Nor can a recipient be deleted by the path that
    we get: Postfix adds a domain to it first, but looks for what the program wrote. Only in this
    case is there a queue id before the first recipient.
    """
    return bool(macro("i")) and is_postfix(macro)


def forgets_recipient(macro: Macro) -> bool:
    """Whether the MTA may fail to find this recipient when it is to be deleted.

    Asked at RCPT. Sendmail expands the aliases of its local mailers immediately, and then sends to
    their targets whatever becomes of the recipient; Postfix expands them later.
    """
    return not is_postfix(macro) and macro("rcpt_mailer") not in _SMTP_MAILERS


def mails_refused(macro: Macro, path: str) -> bool:
    """Whether the MTA may mail a recipient that it was told to refuse at RCPT, or drop another one.

    Sendmail reads the path as a list to find the recipient to delete: a path with commas that is
    not a single address can match others, and miss the one meant.
    """
    return "," in path and not is_postfix(macro)


def client_address(macro: Macro, family: str, address: str) -> str:
    """The IP address of the MTA's client, or `unix`, or `unknown`."""
    if family == "L":
        return "unix"
    found = macro("client_addr") or address or "unknown"
    return found[5:] if found[:5].lower() == "ipv6:" else found


class MilterMessage:
    """Keeps the header section, the size of the body, and whether it contains a NUL.

    The beginning of the body is kept if a stream needs its text. Both go to the spool like relayed
    content; `close` releases them. Nothing beyond a limit is kept.
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
        """`leading_space`: values include the space after the colon (HDR_LEADSPC)."""
        self.transaction = transaction
        self.refusal: Reply | None = None  # because of the sender
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
        """Add a field; MTAs end the lines of a folded value with LF. Raises OSError."""
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
        """Add a piece of the body. Raises OSError."""
        self.size += len(chunk)
        if b"\0" in chunk:
            self._problem = self._problem or ContentProblem.NUL
        if self._reads_body is None:
            self._reads_body = self.transaction.reads_body(self.header())
        if self._reads_body and self._text.size <= READ_LIMIT:
            self._text.append(chunk)

    def problem(self, size_limit: int) -> ContentProblem | None:
        """Why the complete message cannot be accepted, or None."""
        return ContentProblem.TOO_LARGE if self.size > size_limit else self._problem

    def text(self) -> Body | None:
        """The beginning of the body, if a stream needs it."""
        if not self._reads_body:
            return None
        return Body(self._text.pieces, self._text.size)

    def header(self) -> bytes:
        """The header section with its empty line, if it is within the limits."""
        return b"".join(self._section.pieces()) + b"\r\n"

    def close(self) -> None:
        self._section.close()
        self._text.close()
