"""What may stand in the log of what others said: no address, no secret, no line of their own.

An upstream's reply, a client's command, an exception's text: any of them may name a
recipient. Too much taken out is a pity, too little is a breach, so what only may be an address
goes as well.
"""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

ADDRESS, TOKEN = "[address]", "[secret]"

LONGEST = 1_000
"""Characters of one value; a traceback may have ten times as many."""

_AT = re.compile(
    r"[@\uff20\ufe6b]|&\#0*64;?|&\#x0*40;?|&commat;?|\\u0040|\\x40|\\100|[\[({]\ ?at\ ?[\])}]"
    r"|[%+=]40(?=\[|[a-z0-9_-]{1,63}\.[a-z0-9])",
    re.IGNORECASE,
)
"""What parts an address, also as xtext, quoted-printable, URLs, HTML and source text write it."""

_ENDS = frozenset('<>,;"()[]{}|`')
_COMMENT = {")": "(", "]": "[", "}": "{"}

_SECRETS = re.compile(
    r"(/u/|\bbearer\s+|\bwhsec_|\bsubject=unsubscribe(?:%20|\s|\+)+|\bauth\s+[\w-]+\s+)"
    r"[^\s\"'<>()]+",
    re.IGNORECASE,
)
_ENCODED_WORD = re.compile(r"=\?[^?\s]{1,40}\?[bq]\?[^?\s]*(?:\?=)?", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_OF_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def redact(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Redact all values of a line, as a processor of structlog; those at debug stay as they are."""
    if method == "debug":
        return event
    for name, value in event.items():
        if name == "exception":
            lines = redacted(str(value))[-10 * LONGEST :]
            event[name] = _CONTROL_OF_LINES.sub(_escaped, lines)
        else:
            event[name] = _of_any(value)
    return event


def redacted(text: str) -> str:
    """Return the text without addresses and secrets, in linear time."""
    text = _ENCODED_WORD.sub(ADDRESS, _SECRETS.sub(rf"\1{TOKEN}", text))
    parts, done = [], 0
    for at in _AT.finditer(text):
        if at.start() < done:
            continue  # it is part of the one before: a@b@c
        begin = _begin(text, at.start(), done)
        parts += [text[done:begin], ADDRESS]
        done = _end(text, at.end())
    return "".join([*parts, text[done:]])


def _begin(text: str, at: int, least: int) -> int:
    """Return where the local part in front of `at` begins."""
    begin = at
    while begin > least and text[begin - 1].isspace():
        begin -= 1
    if begin > least and text[begin - 1] in _COMMENT:
        found = text.rfind(_COMMENT[text[begin - 1]], least, begin)
        begin = begin - 1 if found < 0 else found
    if begin > least and text[begin - 1] == '"':
        found = begin - 1
        while (found := text.rfind('"', least, found)) > least and text[found - 1] == "\\":
            pass
        return max(found, least)
    while begin > least and text[begin - 1] not in _ENDS and not text[begin - 1].isspace():
        begin -= 1
    return begin


def _end(text: str, end: int) -> int:
    """Return where the domain that begins at `end` ends."""
    while end < len(text) and text[end].isspace():
        end += 1
    if text[end : end + 1] == "[":
        closing = text.find("]", end)
        return len(text) if closing < 0 else closing + 1
    while end < len(text) and text[end] not in _ENDS and not text[end].isspace():
        end += 1
    return end


def _of_any(value: Any) -> Any:
    """Return a value of any kind as the log may show it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(_of_any(key)): _of_any(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_of_any(each) for each in value]
    text = redacted(value if isinstance(value, str) else repr(value))
    if len(text) > LONGEST:  # not before: half an address has no sign of one
        text = text[:LONGEST] + "…"
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
