"""One message as a milter is told of it: header fields, then octets of body."""

from smtpproxy.pipeline.advised import AdvisedTransaction
from smtpproxy.pipeline.closer import READ_LIMIT
from smtpproxy.relay.content import HEADER_LIMIT, Body
from smtpproxy.wire.milter.commands import Header


class MilterMessage:
    """Keeps the header section, and of the body its size and whether it holds a NUL.

    The beginning of the body is kept where a stream asks for its text.
    """

    __slots__ = (
        "_body",
        "_body_size",
        "_fields",
        "_header_size",
        "_separator",
        "barred",
        "has_nul",
        "paths",
        "size",
        "transaction",
    )

    def __init__(self, transaction: AdvisedTransaction, *, leading_space: bool) -> None:
        """`leading_space`: values come with the space after the colon (HDR_LEADSPC)."""
        self.transaction = transaction
        self.barred = False  # the sender is not the client's to use
        self.paths: dict[str, str] = {}  # of recipients, as the MTA wrote them
        self.size = 2  # the empty line
        self.has_nul = False
        self._separator = b":" if leading_space else b": "
        self._header_size = 0
        self._fields: list[bytes] = []
        self._body: list[bytes] = []
        self._body_size = 0

    def add_field(self, header: Header) -> None:
        """Take a field; MTAs end the lines of a folded value with LF."""
        value = header.value
        if b"\n" in value:
            value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        field = b"%b%b%b\r\n" % (header.name, self._separator, value)
        self.size += len(field)
        self._header_size += len(field)
        if self._header_size <= HEADER_LIMIT:
            self._fields.append(field)
        else:
            self._fields.clear()

    def add_body(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self.has_nul = self.has_nul or b"\0" in chunk
        if self.transaction.reads_text and self._body_size <= READ_LIMIT:
            self._body.append(chunk)
            self._body_size += len(chunk)

    def text(self) -> Body | None:
        """The beginning of the body, where it is asked for."""
        if not self.transaction.reads_text:
            return None
        return Body(lambda: iter(self._body), self._body_size)

    def header(self) -> bytes | None:
        """The header section with its empty line; None when it is too long to be read."""
        if self._header_size > HEADER_LIMIT:
            return None
        return b"".join(self._fields) + b"\r\n"


def address(path: str) -> str:
    """Return a path of MAIL or RCPT without brackets and source route.

    What is no address comes back as it is: to judge it is not for the intake.
    """
    inner = path.strip(" ")
    if inner.startswith("<") and inner.endswith(">"):
        inner = inner[1:-1]
    if inner.startswith("@"):
        route, colon, mailbox = inner.partition(":")
        if colon and '"' not in route:
            return mailbox
    return inner
