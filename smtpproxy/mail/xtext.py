"""xtext: any text in the printable ASCII that parameters of SMTP may hold (RFC 3461 section 4)."""

import re

_ESCAPED = re.compile(rb"\+([0-9A-F]{2})")
_PLAIN = re.compile(r"[!-*,-<>-~]*")  # printable ASCII but + and =


def from_xtext(text: str) -> str:
    """Return what xtext stands for; control characters and what is no UTF-8 are replaced."""
    octets = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
    decoded = octets.decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\ufffd" for each in decoded)


def to_xtext(text: str) -> str:
    """Return text as xtext: what is not printable ASCII, and + and =, in hexadecimal."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in (0x2B, 0x3D) else f"+{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )
