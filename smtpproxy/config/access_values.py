"""How values are written that say who may come in: files, networks, users, certificates.

Like `values`: plain units, or ValueError with what is wrong and what would be right.
"""

import contextlib
import ipaddress
import re
from pathlib import Path

from smtpproxy.config.values import absolute_path, duration, sender, shown
from smtpproxy.settings import Rate
from smtpproxy.wire.sasl import USER_NAME_RULE, is_user_name


def file_path(value: object) -> Path:
    return Path(absolute_path(value))


def network(value: object) -> str:
    """Return a network of hosts, `10.0.0.0/8`, a single host, or `unix` for UNIX sockets."""
    if value == "unix":
        return "unix"
    text = value if isinstance(value, str) else ""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_network(text))
    try:
        meant = shown(str(ipaddress.ip_network(text, strict=False)))
    except ValueError:
        meant = '"10.0.0.0/8", "2001:db8::/32", "192.0.2.7" or "unix"'
    raise ValueError(f"{shown(value)} is not a network such as {meant}")


def user(value: object) -> str:
    """Return the name of a user: it stands in the record."""
    if not isinstance(value, str) or not is_user_name(value):
        raise ValueError(f"{shown(value)} is not the name of a user: {USER_NAME_RULE}")
    return value


def certificate(value: object) -> str:
    """Return a client certificate's SHA-256 fingerprint (lower-case hex), or its subject."""
    if isinstance(value, str):
        digits = value.replace(":", "").lower()
        if re.fullmatch(r"[0-9a-f]{64}", digits):
            return digits
        if "=" in value and value.isprintable():
            return value
    raise ValueError(
        f"{shown(value)} is neither a SHA-256 fingerprint (64 hexadecimal digits) nor a subject"
        ' such as "CN=shop,O=Example"'
    )


def rate(value: object) -> Rate:
    """Return a rate, `600/1m`: so many in so much time."""
    count, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if slash and re.fullmatch(r"[1-9][0-9]{0,8}", count):
        with contextlib.suppress(ValueError):
            return Rate(int(count), duration(period))
    raise ValueError(f'{shown(value)} is not a rate such as "600/1m" or "10000/1h"')


def allowed_sender(value: object) -> str:
    """Return a reverse path, all those of a domain, or `<>` for the null path."""
    return "<>" if value == "<>" else sender(value)
