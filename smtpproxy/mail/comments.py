"""Comments and white space between the words of a structured field (RFC 5322 3.2.2)."""

import re

_SPACE = re.compile(r"[ \t\r\n]*")
_BOUNDARY = re.compile(r"[()\\]")


class CommentError(ValueError):
    """A comment that is opened and not closed."""


def skip_cfws(text: str, position: int) -> int:
    """Return the offset behind all comments and white space that stand at `position`.

    Comments may nest and hold quoted pairs. Raises `CommentError`.
    """
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not text.startswith("(", position):
            return position
        position = _comment_end(text, position)


def _comment_end(text: str, position: int) -> int:
    depth = 0
    while (found := _BOUNDARY.search(text, position)) is not None:
        position = found.end()
        match found[0]:
            case "(":
                depth += 1
            case ")":
                depth -= 1
                if depth == 0:
                    return position
            case _:
                position += 1
    raise CommentError("a comment is opened with ( and not closed with )")
