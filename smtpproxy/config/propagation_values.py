"""How the values of `[[token]]` and `[[webhook]]` are written (see `values`)."""

import re
from urllib.parse import urlsplit

from smtpproxy.config.values import purpose, shown

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def sha256(value: object) -> str:
    """Return the SHA-256 of a token, in lower-case hexadecimal."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(
            "must be the SHA-256 of a token, 64 hexadecimal digits, never the token itself:"
            " `smtpproxy token` makes both"
        )
    return value.lower()


def webhook_url(value: object) -> str:
    """Return where changes are delivered: https, or http on this machine."""
    wrong = 'must be an https URL such as "https://crm.example.com/hooks/suppressions"'
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(wrong)
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port  # a wrong port is found only when it is read
    except ValueError:
        raise ValueError(wrong) from None
    if " " in value or not host or url.fragment:
        raise ValueError(wrong)
    if url.username is not None:
        raise ValueError("must hold no user name or password: the signature says who we are")
    if url.scheme != "https" and not (url.scheme == "http" and host in _LOOPBACK):
        raise ValueError(f"{wrong}; http:// is for receivers on this machine alone")
    return value


def scope(value: object) -> str:
    """Return the scope of suppressions: `all`, `marketing` or `purpose:NAME`."""
    if isinstance(value, str) and value in ("all", "marketing"):
        return value
    if isinstance(value, str) and value.startswith("purpose:"):
        return f"purpose:{purpose(value.removeprefix('purpose:'))}"
    raise ValueError(f'{shown(value)} is not a scope: "all", "marketing" or "purpose:NAME"')
