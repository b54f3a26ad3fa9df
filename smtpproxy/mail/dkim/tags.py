"""Lists of `tag=value`, as signatures and key records are written (RFC 6376 section 3.2)."""

import re

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_SPACE = re.compile(rb"[ \t\r\n]+")


class TagError(ValueError):
    """A list that cannot be read, or a tag that says nothing usable."""


def read_tags(text: bytes) -> dict[bytes, bytes]:
    """Return the tags and what they say, without white space around. Raises TagError."""
    tags: dict[bytes, bytes] = {}
    specs = text.split(b";")
    if not specs[-1].strip(b" \t\r\n"):
        specs.pop()
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip(b" \t\r\n")
        if not equals or _NAME.fullmatch(name) is None:
            raise TagError("not a list of tag=value")
        if name in tags:
            raise TagError(f"the tag {name.decode()}= stands there twice")
        tags[name] = value.strip(b" \t\r\n")
    return tags


def unspaced(value: bytes) -> bytes:
    """Return a value without the white space that folding may have put into it."""
    return _SPACE.sub(b"", value)
