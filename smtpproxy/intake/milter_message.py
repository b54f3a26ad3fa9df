"""One message as a milter is told of it: header fields, then octets of body."""

from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.advised import AdvisedTransaction
from smtpproxy.pipeline.closer import READ_LIMIT
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
        "_has_nul",
        "_header_size",
        "_limits",
        "_section",
        "_separator",
        "_text",
        "refusal",
        "size",
        "transaction",
    )

    def __init__(
        self,
        transaction: AdvisedTransaction,
        spool: Spool,
        limits: HeaderLimits,
        *,
        leading_space: bool,
    ) -> None:
        """`leading_space`: values come with the space after the colon (HDR_LEADSPC)."""
        self.transaction = transaction
        self.refusal: Reply | None = None  # for the sender's sake
        self.size = 2  # the empty line
        self._has_nul = False
        self._separator = b":" if leading_space else b": "
        self._limits = limits
        self._header_size = 0
        self._fields = 0
        self._section = Content(spool)
        self._text = Content(spool)

    def add_field(self, header: Header) -> None:
        """Take a field; MTAs end the lines of a folded value with LF. Raises OSError."""
        size = len(header.name) + len(self._separator) + len(header.value) + 2
        self._fields += 1
        if self._header_problem(size) is None:
            value = header.value
            if b"\n" in value:
                value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            field = b"%b%b%b\r\n" % (header.name, self._separator, value)
            size = len(field)
            self._section.append(field)
        self._header_size += size
        self.size += size

    def add_body(self, chunk: bytes) -> None:
        """Take a piece of the body. Raises OSError."""
        self.size += len(chunk)
        self._has_nul = self._has_nul or b"\0" in chunk
        if self.transaction.reads_text and self._text.size <= READ_LIMIT:
            self._text.append(chunk)

    def problem(self, size_limit: int) -> ContentProblem | None:
        """Why it cannot be taken, once all of it was told."""
        if self.size > size_limit:
            return ContentProblem.TOO_LARGE
        return self._header_problem() or (ContentProblem.NUL if self._has_nul else None)

    def _header_problem(self, more: int = 0) -> ContentProblem | None:
        """Which limit the header section is beyond, with `more` octets."""
        if self._header_size + more > self._limits.size:
            return ContentProblem.HEADER_TOO_LARGE
        return ContentProblem.TOO_MANY_FIELDS if self._fields > self._limits.fields else None

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
