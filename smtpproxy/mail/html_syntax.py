"""Attributes, comments and character references of HTML, as HTML 5 reads them (WHATWG HTML 13.2.5).

Linear in the length of the text, whatever it is.
"""

import re
from html import unescape

ATTRIBUTE = re.compile(
    r"""([^\s"'<>/=]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>][^\s>]*+)))?""", re.ASCII
)
"""The name, and the value in the last group that matched. A quote that is never closed counts
as no quote."""

COMMENT_END = re.compile("--!?>")
_ENDLESS_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{8,}")


def attributes_of(tag: str) -> dict[str, str]:
    """Return the attributes of a tag from the text after its name; of two, the first counts."""
    found: dict[str, str] = {}
    for name, double, single, bare in ATTRIBUTE.findall(tag):
        found.setdefault(name.lower(), double or single or bare)
    return found


def plain_of(text: str) -> str:
    """Return text with its character references decoded."""
    if "&" not in text:
        return text
    return unescape(_ENDLESS_NUMBER.sub("", text))
