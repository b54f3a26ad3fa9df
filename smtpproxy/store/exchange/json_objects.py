"""JSON objects out of a file: one a line, or spread over lines as programs print them."""

from collections.abc import Iterator

import msgspec

from smtpproxy.store.exchange.lines import Line, Rejected

_MOST_LINES = 100  # of one object


def keys_of(content: bytes) -> tuple[str, ...]:
    """Return the keys of an object; none when it is no object."""
    try:
        found = msgspec.json.decode(content)
    except msgspec.MsgspecError:
        return ()
    return tuple(found) if isinstance(found, dict) else ()


def one_object_a_line(lines: Iterator[Line | Rejected]) -> Iterator[Line | Rejected]:
    """Yield the lines that say something; an object spread over lines becomes one.

    Of a document such as `{"Suppressions": [ {…}, {…} ]}` that is printed with one field a
    line, the innermost objects are yielded and what holds them is left out. An object in
    an object is not looked for.
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
            yield line
        elif text in (b"}", b"},"):
            if pending:
                content = b"\n".join(part.content for part in pending) + b"\n}"
                yield Line(pending[0].number, content)
            pending = []
        elif pending and text.endswith((b"[", b"{")):
            pending = []  # it held others
        elif pending and len(pending) < _MOST_LINES:
            pending.append(line)
