"""The header fields of a way out that a relay adds (RFC 2369, 2919 and 8058)."""

from urllib.parse import quote

from smtpproxy.mail.headers import HeaderBlock


def way_out(uri: str, token: str, *, mailto: str | None, list_id: str | None) -> bytes:
    """Return the fields with their CRLF, the https URI first: it is preferred (RFC 2369 2).

    `uri` ends with the token. A mailto alternative names the token in its subject.
    """
    uris = [f"<{uri}>"]
    if mailto is not None:
        uris.append(f"<mailto:{quote(mailto, safe='@')}?subject=unsubscribe%20{token}>")
    lines = "List-Unsubscribe: " + ",\r\n ".join(uris) + "\r\n"
    lines += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    if list_id is not None:
        lines += f"List-Id: <{list_id}>\r\n"
    return lines.encode("ascii")


def with_fields(headers: HeaderBlock, fields: bytes) -> bytes:
    """Return the header section with `fields` before all others, in place of their namesakes."""
    for name, _ in HeaderBlock(fields).fields():
        text = name.decode("ascii")
        if headers.raw_values(text):
            headers = HeaderBlock(headers.without(text))
    return fields + headers.without("")
