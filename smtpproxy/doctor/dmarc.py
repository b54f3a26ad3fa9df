"""DMARC: the record that holds for a domain, found by the tree walk of RFC 9989.

The walk replaces the list of public suffixes of RFC 7489; `pct` is gone with it.
"""

from typing import Literal

from msgspec import Struct

from smtpproxy.doctor.finding import Lookup
from smtpproxy.mail.dkim.tags import TagError, read_tags

Policy = Literal["none", "quarantine", "reject"]

_POLICIES: tuple[Policy, ...] = ("none", "quarantine", "reject")
_MOST_QUESTIONS = 8  # 4.10: of longer names the part in the middle is left out


class DmarcRecord(Struct, frozen=True):
    """`policy` is for the domain itself, `below` for what is below it. `psd`: it is said to
    be a public suffix ("y") or an organisation's own ("n")."""

    policy: Policy
    below: Policy
    strict_dkim: bool = False
    strict_spf: bool = False
    reports: bool = False  # there is a rua=
    testing: bool = False
    psd: str = "u"
    pct: bool = False  # said although it means nothing any more


class Dmarc(Struct, frozen=True):
    """`at` is where the record was found, None where there is none; `organisation` is the
    domain that relaxed alignment goes by. `problem` is a record that cannot be used."""

    organisation: str
    at: str | None = None
    record: DmarcRecord | None = None
    problem: str = ""

    def policy(self, domain: str) -> Policy | None:
        """Return what receivers are asked to do with mail of `domain` that fails."""
        if self.record is None:
            return None
        return self.record.policy if self.at == domain else self.record.below


def read_dmarc(text: bytes) -> DmarcRecord | None:
    """Read a TXT record; None for one that is no DMARC record. Raises TagError."""
    if not text.replace(b" ", b"").startswith(b"v=DMARC1"):
        return None
    tags = read_tags(text)
    reports = b"rua" in tags
    policy = _policy(tags.get(b"p"))
    if policy is None:
        if b"p" in tags and not reports:
            raise TagError("its p= is none of none, quarantine and reject")
        policy = "none"  # 4.7: so it counts, for the reports' sake
    return DmarcRecord(
        policy,
        _policy(tags.get(b"sp")) or policy,
        tags.get(b"adkim", b"r").lower() == b"s",
        tags.get(b"aspf", b"r").lower() == b"s",
        reports,
        tags.get(b"t", b"n").lower() == b"y",
        tags.get(b"psd", b"u").lower().decode("ascii", "replace"),
        b"pct" in tags,
    )


async def find_dmarc(lookup: Lookup, domain: str) -> Dmarc:
    """Find the record for a domain of From. Raises DnsFailure."""
    found: dict[str, DmarcRecord] = {}
    problem = ""
    for name in tree(domain):
        try:
            record = await _record(lookup, name)
        except TagError as error:
            problem = problem or f"_dmarc.{name}: {error}"
            continue
        if record is None:
            continue
        found[name] = record
        if record.psd in ("y", "n"):
            break
    organisation = _organisation(domain, found)
    at = domain if domain in found else organisation if organisation in found else None
    if at is None:  # only a public suffix may have said something
        at = next((name for name, record in found.items() if record.psd == "y"), None)
    return Dmarc(organisation, at, found[at] if at else None, problem)


async def organisation_of(lookup: Lookup, domain: str) -> str:
    """Return the organisational domain. Raises DnsFailure."""
    return (await find_dmarc(lookup, domain)).organisation


def tree(domain: str) -> list[str]:
    """Return the names to ask about, the longest first (4.10)."""
    labels = domain.split(".")
    names = [domain]
    start = max(1, len(labels) - _MOST_QUESTIONS + 1)
    names += [".".join(labels[i:]) for i in range(start, len(labels))]
    return names


def _organisation(domain: str, found: dict[str, DmarcRecord]) -> str:
    """4.10.2: what says psd=n, what is right below psd=y, else the shortest with a record."""
    for name, record in found.items():
        if record.psd == "n":
            return name
        if record.psd == "y":
            if name == domain:
                return name
            below = domain.removesuffix(f".{name}").rpartition(".")[2]
            return f"{below}.{name}"
    return list(found)[-1] if found else domain


async def _record(lookup: Lookup, name: str) -> DmarcRecord | None:
    texts = (await lookup(f"_dmarc.{name}", "TXT")).texts
    candidates = [text for text in texts if text.replace(b" ", b"").startswith(b"v=DMARC1")]
    if len(candidates) > 1:
        raise TagError(f"{len(candidates)} DMARC records, where there may be one")
    return read_dmarc(candidates[0]) if candidates else None


def _policy(value: bytes | None) -> Policy | None:
    text = (value or b"").lower().decode("ascii", "replace")
    return next((policy for policy in _POLICIES if policy == text), None)
