"""SMTP replies (RFC 5321 section 4.2, RFC 2034)."""

from msgspec import Struct


class Reply(Struct, frozen=True):
    """One reply: code, enhanced code and one or more lines of text."""

    code: int
    enhanced: str | None
    lines: tuple[str, ...]

    @classmethod
    def of(cls, code: int, enhanced: str | None, *lines: str) -> "Reply":
        return cls(code, enhanced, lines or ("",))

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500

    def encode(self) -> bytes:
        """Return the reply as sent: every line with the enhanced code, CRLF at the end."""
        prefix = "" if self.enhanced is None else self.enhanced + " "
        if len(self.lines) == 1:
            return f"{self.code} {prefix}{self.lines[0]}\r\n".encode("utf-8", "surrogateescape")
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if i == last else '-'}{prefix}{line}\r\n"
            for i, line in enumerate(self.lines)
        ).encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        return self.encode().decode("utf-8", "replace").rstrip("\r\n").replace("\r\n", " / ")
