"""`[[dkim]]` and `[dns]`: what they become, what is wrong with them, and what deserves a look."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from smtpproxy.config import models
from smtpproxy.config.faults import Fault
from smtpproxy.config.tables import tables
from smtpproxy.config.values import shown
from smtpproxy.settings import DkimSettings, Settings


def settings(found: Sequence[models.Dkim]) -> tuple[DkimSettings, ...]:
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
