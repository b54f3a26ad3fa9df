"""Text that others wrote, made safe to show on a terminal, and lists that are not too long."""

from collections.abc import Collection
from difflib import get_close_matches

_SPACES = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"  # used in French


def printable(text: str, *, exact: bool = False) -> str:
    """Return `text` with control characters, line ends and lone surrogates escaped.

    `exact` escapes no-break spaces too, which look like others.
    """
    if text.isprintable():
        return text
    kept = "" if exact else _SPACES
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


_FEW = 20


def few(names: Collection[str], like: str = "") -> str:
    """Return names with commas; of more than twenty, those most like `like`, and how many more."""
    if len(names) <= _FEW:
        return ", ".join(names)
    shown = get_close_matches(like, names, _FEW, cutoff=0.0) if like else [*names][:_FEW]
    return f"{', '.join(shown)} and {len(names) - _FEW:,} more"


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 row`, `1,200 rows`: a plural is `many`, or `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def plain_text(value: str) -> str:
    """Read text that is not empty, in UTF-8."""
    text = value.strip()
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{value!r} must be text in UTF-8")
    return text
