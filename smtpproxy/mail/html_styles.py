"""Whether the style of an element, as browsers read it, hides it or its text."""

import re

from smtpproxy.mail.html_syntax import attributes_of, plain_of

_HIDING = re.compile(
    r"display\s*+:\s*+none|visibility\s*+:\s*+(?:hidden|collapse)"
    r"|(?:opacity|max-height)\s*+:\s*+[0.]",
    re.IGNORECASE,
)
_DECLARATION = re.compile(r"(?<![a-z-])([a-z-]{1,30}+)\s*+:([^;]{0,200}+)", re.IGNORECASE)
_CSS_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_FONT = re.compile(r"(?<![a-z-])font(-size)?\s*+:\s*+([^;!]{0,99})", re.IGNORECASE)
_LENGTH = re.compile(r"(?<!\S)[0-9.][^\s/]{0,20}")  # the first of `font` is the size
_ZERO = re.compile(r"0{0,9}\.?0{1,9}(?:[a-z]{1,4}|%)?")
_NOTHING = re.compile(_ZERO.pattern + r"\s*+(?:!|\Z)")
_NUMBER = r"[+-]?(?:[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})"
_UNIT = r"(?:px|pt|r?em|ex|ch|in|cm|mm|pc|q|v(?:w|h|min|max)|%)"
_SIZE = re.compile(
    rf"{_NUMBER}{_UNIT}?|(?:calc|clamp|min|max)\(.*|x{{0,3}}-?(?:small|large)|medium", re.DOTALL
)
_VALID = {
    name: re.compile(f"(?:{values}|inherit|initial|unset|revert)(?:\\s*+!.*)?", re.DOTALL)
    for name, values in {
        "display": "none|block|contents|flex|flow-root|grid|list-item"
        "|inline(?:-(?:block|flex|grid|table))?"
        "|table(?:-(?:caption|cell|column|row|(?:column|footer|header|row)-group))?",
        "visibility": "visible|hidden|collapse",
        "opacity": f"{_NUMBER}%?",
        "max-height": f"{_NUMBER}{_UNIT}|0|none",
    }.items()
}
"""The properties that may hide, with the values that browsers understand; they ignore others."""
_LIKE_AROUND = re.compile(r".{0,20}(?:(?<!r)em|ex|ch|%)")


def style_of(tag: str) -> str:
    """The style of an element from its attributes, as CSS; `hidden` is one of them."""
    lower = tag.lower()
    if "style" not in lower and "hidden" not in lower:
        return ""
    attributes = attributes_of(tag)
    style = plain_of(attributes.get("style", ""))
    if "/*" in style:
        style = _CSS_COMMENT.sub(" ", style)
    return f"display:none;{style}" if "hidden" in attributes else style  # `style` may show it


def hides(style: str) -> bool:
    """Whether a style hides its element: the last valid declaration of a property counts."""
    if not _HIDING.search(style):
        return False
    stated: dict[str, str] = {}
    for name, value in _DECLARATION.findall(style):
        name, value = name.lower(), value.strip().lower()
        valid = name in _VALID and _VALID[name].fullmatch(value)
        if valid and ("!" in value or "!" not in stated.get(name, "")):  # !important
            stated[name] = value
    return (
        stated.get("display", "").startswith("none")
        or stated.get("visibility", "").startswith(("hidden", "collapse"))
        or any(_NOTHING.match(stated.get(name, "")) for name in ("opacity", "max-height"))
    )


def font_size(style: str) -> bool | None:
    """Whether text of this style has a size; None: that of the text around it."""
    has_size = None
    for whole, value in _FONT.findall(style):
        size = value.strip().lower()
        if not whole:  # the shorthand `font`
            length = _LENGTH.search(size)
            size = "" if length is None else length[0]
        if _ZERO.fullmatch(size):
            has_size = False
        elif _SIZE.fullmatch(size) and not _LIKE_AROUND.fullmatch(size):
            has_size = True
    return has_size
