"""`[[dkim]]` and `[dns]`: how they are written, what they become, and what deserves a look."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from smtpproxy.config.faults import Fault
from smtpproxy.config.tables import tables
from smtpproxy.config.values import address, shown
from smtpproxy.settings import DkimSettings, Settings, TcpAddress

if TYPE_CHECKING:
    from smtpproxy.config import models

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


def settings(found: "Sequence[models.Dkim]") -> tuple[DkimSettings, ...]:
    return tuple(
        DkimSettings(
            each.domain,
            each.selector,
            each.key,
            frozenset(each.streams),
            each.since,
            each.subdomains,
        )
        for each in found
    )


def dkim_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults that no table shows by itself: one name for two keys."""
    seen: dict[tuple[str, str], int] = {}
    for index, table in tables(document, "dkim"):
        domain, name = table.get("domain"), table.get("selector")
        if not isinstance(domain, str) or not isinstance(name, str):
            continue
        same = domain.lower(), name.lower()
        if same in seen:
            text = (
                f"{shown(name)} is the selector of dkim[{seen[same]}] too: each key has its own,"
                " keys of RSA and Ed25519 as well (RFC 8463 section 3)"
            )
            yield Fault(("dkim", index, "selector"), text)
        seen.setdefault(same, index)


def warnings(found: Settings) -> Iterator[str]:
    """Yield what deserves a second look, as `key.path: what and why`."""
    if not found.dkim:
        return
    for listener in found.listeners:
        if listener.protocol == "milter":
            yield (
                f'listener "{listener.name}".protocol: what a milter is asked about is not'
                " signed by [[dkim]]: have the MTA sign it"
            )
    for stream in found.streams.values():
        where = f'stream "{stream.name}".from_domains'
        unsigned = sorted(d for d in stream.from_domains if not _signs(found, d, stream.name))
        if unsigned:
            yield f"{where}: no [[dkim]] key signs the mail of {', '.join(unsigned)} on it"
        elif not stream.from_domains and stream.name != "default":
            yield f"{where}: none, so mail of domains without a [[dkim]] key leaves unsigned"


def _signs(found: Settings, domain: str, stream: str) -> bool:
    return any(
        (key.domain == domain or (key.subdomains and domain.endswith(f".{key.domain}")))
        and (not key.streams or stream in key.streams)
        for key in found.dkim
    )
