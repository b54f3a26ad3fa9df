"""JSON objects out of a file: one a line, or spread over lines as programs print them."""

import re
from collections.abc import Iterator

import msgspec

from smtpproxy.store.exchange.lines import Line, Rejected

_MOST_LINES = 100  # of one object
_LIST = re.compile(rb"\[\s*\{")


def keys_of(content: bytes) -> tuple[str, ...]:
    """Return the keys of an object; none when it is no object."""
    try:
        found = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    return tuple(found) if isinstance(found, dict) else ()


def one_object_a_line(lines: Iterator[Line | Rejected]) -> Iterator[Line | Rejected]:
    """Yield the lines that say something, one object each.

    Of a document such as `{"Suppressions": [ {…}, {…} ]}`, on one line or printed with one
    field a line, the innermost objects are yielded and what holds them is left out. An
    object in an object is not looked for.
    """
    pending: list[Line] = []
    spread = False  # the last line but blanks opened an object, or one is open
    for line in lines:
        if isinstance(line, Rejected):
            pending.clear()
            yield line
            continue
        if line.is_void:
            continue
        text = line.content.strip()
        if text == b"{":
            pending, spread = [line], True
        elif not spread:
            yield from _listed(line)
        elif text in (b"}", b"},"):
            if pending:
                content = b"\n".join(part.content for part in pending) + b"\n}"
                yield Line(pending[0].number, content)
            pending = []
        elif pending and text.endswith((b"[", b"{")):
            pending = []  # it held others
        elif pending and len(pending) < _MOST_LINES:
            pending.append(line)


def _listed(line: Line) -> Iterator[Line]:
    """Yield the objects of the one list that a document on one line is about; else the line."""
    try:
        found = msgspec.json.decode(line.content) if _LIST.search(line.content) else None
    except msgspec.MsgspecError:
        found = None
    values = found.values() if isinstance(found, dict) else ()
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) != 1 or not all(isinstance(one, dict) for one in lists[0]):
        yield line
        return
    for one in lists[0]:
        yield Line(line.number, msgspec.json.encode(one))
