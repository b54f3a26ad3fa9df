"""How the values of `[[dkim]]` and `[dns]` are written (see `values`)."""

import ipaddress
import re
from datetime import UTC, date, datetime

from smtpproxy.config.values import address, shown
from smtpproxy.settings import TcpAddress

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def selector(value: object) -> str:
    """Return a selector, a name below `_domainkey` (RFC 6376 section 3.1), in lower case."""
    text = value.lower() if isinstance(value, str) else ""
    if _SELECTOR.fullmatch(text) is None or len(text) > 150:
        raise ValueError(
            f'{shown(value)} is not a selector such as "s2026": letters, digits and hyphens'
        )
    return text


def moment(value: object) -> datetime:
    """Return a date (its first moment, UTC) or a time with its offset, in UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(
        f"{shown(str(value))} is not a date such as 2026-12-01 or 2026-12-01T06:00:00Z, without"
        " quotes"
    )


def nameserver(value: object) -> TcpAddress:
    """Return where a name server is: an IP address, with a port where that is not 53."""
    wrong = ValueError(
        f'{shown(value)} is not the address of a name server such as "127.0.0.1:5353",'
        ' "192.0.2.53" or "[2001:db8::53]:53"'
    )
    if not isinstance(value, str):
        raise wrong
    try:
        return TcpAddress(str(ipaddress.ip_address(value)), 53)
    except ValueError:
        pass
    try:
        found = address(value)
        if isinstance(found, TcpAddress):
            return TcpAddress(str(ipaddress.ip_address(found.host)), found.port)
    except ValueError:
        pass
    raise wrong
