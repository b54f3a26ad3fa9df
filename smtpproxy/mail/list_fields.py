"""The header fields of a way out that a relay adds (RFC 2369, 2919 and 8058)."""

from collections.abc import Iterable
from urllib.parse import quote

from smtpproxy.mail.headers import HeaderBlock

WAY_OUT = ("List-Unsubscribe", "List-Unsubscribe-Post")
"""Each stands once in a message, so what is added replaces what was there."""


def way_out(uri: str, token: str, *, mailto: str | None, list_id: str | None) -> bytes:
    """Return the fields with their CRLF, the https URI first: it is preferred (RFC 2369 2).

    `uri` ends with the token. A mailto alternative names the token in its subject.
    """
    uris = [f"<{uri}>"]
    if mailto is not None:
        uris.append(f"<mailto:{quote(mailto, safe='@')}?subject=unsubscribe%20{token}>")
    lines = f"List-Unsubscribe: {(',' + chr(13) + chr(10) + ' ').join(uris)}\r\n"
    lines += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    if list_id is not None:
        lines += f"List-Id: <{list_id}>\r\n"
    return lines.encode("ascii")


def without_fields(headers: HeaderBlock, names: Iterable[str]) -> HeaderBlock:
    """Return the block less the fields with these names, the same one when it has none."""
    for name in names:
        if headers.raw_values(name):
            headers = HeaderBlock(headers.without(name))
    return headers
