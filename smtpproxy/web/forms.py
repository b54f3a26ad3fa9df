"""Read forms sent by programs and browsers, within bounds."""

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
"""RFC 8058 3.2. Without a type, the first is assumed."""
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)', re.IGNORECASE)
_FIELD_NAME = re.compile(
    rb'^content-disposition:[^\r\n]*;[ \t]*name="?([^";\r\n]*)', re.IGNORECASE | re.MULTILINE
)
LARGEST_FORM = 16 * 1024  # octets
_MOST_FIELDS = 200
_BODY_WITHIN = 20.0  # seconds


class OtherType(Exception):
    """The content type is not that of a form."""


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields by name and by lower-case name, none if malformed. Raises OtherType.

    Programs write `List-Unsubscribe` in any case; purposes may differ by case alone.
    """
    kind, _, parameters = request.headers.get("content-type", URLENCODED).partition(";")
    kind = kind.strip().lower()
    if kind == _MULTIPART:
        return _multipart(parameters, await _body(request))
    if kind == URLENCODED:
        return _urlencoded(await _body(request))
    raise OtherType(kind)


async def _body(request: Request) -> bytes:
    """Return the body, empty if it is too large or does not arrive in time."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_FORM:
                    return b""
    except (ClientDisconnect, TimeoutError):
        return b""
    return body


def _urlencoded(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return _by_name([(name.strip(), value.strip()) for name, value in pairs])


def _multipart(parameters: str, body: bytes) -> dict[str, str]:
    """Read a form of RFC 7578."""
    found = _BOUNDARY.search(parameters)
    if found is None:
        return {}
    delimiter = b"\n--" + (found[1] or found[2]).encode("latin-1")
    # A bare LF is accepted too: an unsubscribe must not fail for that.
    lines = b"\n" + body.replace(b"\r\n", b"\n")
    fields = []
    for part in lines.split(delimiter, _MOST_FIELDS)[1:-1]:
        head, _, value = part.partition(b"\n\n")
        if name := _FIELD_NAME.search(head):
            fields.append((name[1].decode("latin-1").strip(), value.decode("latin-1").strip()))
    return _by_name(fields)


def _by_name(fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields} | dict(fields)
