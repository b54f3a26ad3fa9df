"""Text that others wrote, made safe to show on a terminal."""

_SPACES = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"  # used in French


def printable(text: str, *, typeset: bool = False) -> str:
    """Return `text` with control characters, line ends and lone surrogates escaped.

    `typeset` text is our own and keeps its no-break spaces.
    """
    if text.isprintable():
        return text
    kept = _SPACES if typeset else ""
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 row`, `1,200 rows`: a plural is `many`, or `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
