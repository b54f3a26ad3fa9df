"""Octets of a text part as text, whatever charset they claim to be in."""

import codecs

_WINDOWS = tuple(f"cp{number}" for number in (437, 850, 874, *range(1250, 1259)))
_ISO = tuple(f"iso-8859-{number}" for number in range(1, 17) if number != 12)
_KNOWN = (
    *("us-ascii", "utf-8", "utf-16", "utf-16le", "utf-16be", "utf-7", *_WINDOWS, *_ISO),
    *("koi8-r", "koi8-u", "macintosh", "gb2312", "gbk", "gb18030", "big5"),
    *("shift_jis", "euc-jp", "iso-2022-jp", "euc-kr", "iso-2022-kr", "tis-620"),
)
# Python has codecs that are no charset of mail, and slow on hostile input (punycode).
_NAMES = frozenset(codecs.lookup(name).name for name in _KNOWN)
_ALIASES = {
    "utf8mb4": "utf-8",
    "unicode": "utf-8",
    "x-sjis": "shift_jis",
    "x-gbk": "gbk",
    "windows-874": "cp874",
}


def decoded(octets: bytes, charset: str) -> str:
    """Return the text; what cannot be decoded is U+FFFD, never an error.

    A part that names no charset, or one that no mail has, is read as UTF-8 if it is that, else
    as windows-1252, as mail programs do.
    """
    name = _name(charset)
    if name is not None and name != "ascii":
        try:
            return octets.decode(name, "replace")
        except (UnicodeError, ValueError):  # a codec that minds what it is to replace
            pass
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        good = octets[: error.start]
        if error.reason == "unexpected end of data" and not good.isascii():
            return good.decode("utf-8")  # cut inside of a character
    return octets.decode("windows-1252", "replace")


def _name(charset: str) -> str | None:
    asked = charset.strip().lower()
    try:
        name = codecs.lookup(_ALIASES.get(asked, asked)).name
    except (LookupError, ValueError):
        return None
    return name if name in _NAMES else None
