"""Text that others wrote, made safe to show on a terminal."""

_SPACES = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"  # French is written with them


def printable(text: str) -> str:
    """Return `text` with control characters, line ends and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _SPACES else ascii(c)[1:-1] for c in text)
