"""One message as a milter is told of it: header fields, then octets of body."""

from smtpproxy.core.content_checks import READ_LIMIT
from smtpproxy.core.milter import MilterTransaction
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.content import Body, Content, Spool
from smtpproxy.wire.events import ContentProblem
from smtpproxy.wire.incoming import HeaderLimits
from smtpproxy.wire.milter.commands import Header


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
        if self.transaction.reads_text and self._text.size <= READ_LIMIT:
            self._text.append(chunk)

    def problem(self, size_limit: int) -> ContentProblem | None:
        """Why it cannot be taken, once all of it was told."""
        return ContentProblem.TOO_LARGE if self.size > size_limit else self._problem

    def text(self) -> Body | None:
        """The beginning of the body, where it is asked for."""
        if not self.transaction.reads_text:
            return None
        return Body(self._text.pieces, self._text.size)

    def header(self) -> bytes:
        """The header section with its empty line, where it is not beyond a limit."""
        return b"".join(self._section.pieces()) + b"\r\n"

    def close(self) -> None:
        self._section.close()
        self._text.close()
