"""The trace field that a relay adds (RFC 5321 section 4.4)."""

from datetime import datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

RECEIVED_LIMIT = 100
"""A message with this many Received fields is going round in circles (RFC 5321 6.3)."""


def date_time(moment: datetime) -> str:
    """Return an RFC 5322 date-time of a UTC moment."""
    return _date_time(moment.replace(microsecond=0))


@lru_cache(maxsize=4)
def _date_time(moment: datetime) -> str:
    """Of a whole second: a busy relay asks for the same one many times."""
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} +0000"
    )


def received(
    *,
    helo: str,
    peer: str,
    hostname: str,
    protocol: str,
    id: str,
    at: datetime,
    recipient: str | None = None,
) -> bytes:
    """Return a Received field with its CRLF. `recipient` only when there is just one."""
    source = peer if peer == "unix" else f"[{'IPv6:' if ':' in peer else ''}{peer}]"
    name = helo.encode("ascii", "replace").decode()
    target = f"\r\n\tfor <{recipient}>" if recipient is not None and recipient.isascii() else ""
    return (
        f"Received: from {name} ({source})\r\n"
        f"\tby {hostname} (smtpproxy) with {protocol} id {id}{target};\r\n"
        f"\t{date_time(at)}\r\n"
    ).encode("utf-8", "replace")
