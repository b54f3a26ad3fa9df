"""The DMARC record that holds for a domain, found by the tree walk of RFC 9989.

The walk replaces the list of public suffixes of RFC 7489.
"""

from msgspec import Struct

from smtpproxy.doctor.finding import Lookup
from smtpproxy.mail.dmarc import (
    DmarcError,
    DmarcRecord,
    Policy,
    is_dmarc,
    is_nearly_dmarc,
    organisation,
    read_dmarc,
    tree,
)


class Dmarc(Struct, frozen=True):
    """`at` is where the record was found, None where there is none; `organisation` is the
    domain that relaxed alignment goes by. `problem` is a record that cannot be used. `exists`:
    the domain itself has an address or takes mail."""

    organisation: str
    at: str | None = None
    record: DmarcRecord | None = None
    problem: str = ""
    exists: bool = True

    def policy(self, domain: str) -> Policy | None:
        """Return what receivers are asked to do with mail of `domain` that fails."""
        if self.record is None:
            return None
        if self.at == domain:
            return self.record.policy
        return self.record.below if self.exists else self.record.absent


async def find_dmarc(lookup: Lookup, domain: str) -> Dmarc:
    """Find the record for a domain of From. Raises DnsFailure."""
    found: dict[str, DmarcRecord] = {}
    problem = ""
    for name in tree(domain):
        try:
            record = await _record(lookup, name)
        except DmarcError as error:
            problem = problem or f"_dmarc.{name}: {error}"
            continue
        if record is None:
            continue
        found[name] = record
        if record.psd in ("y", "n"):
            break
    own = organisation(domain, {name: record.psd for name, record in found.items()})
    at = domain if domain in found else own if own in found else None
    if at is None:  # only a public suffix may have said something
        at = next((name for name, record in found.items() if record.psd == "y"), None)
    if at is None:
        return Dmarc(own, problem=problem)
    record = found[at]
    exists = at == domain or record.absent == record.below or await _exists(lookup, domain)
    return Dmarc(own, at, record, problem, exists)


async def organisation_of(lookup: Lookup, domain: str) -> str:
    """Return the organisational domain. Raises DnsFailure."""
    return (await find_dmarc(lookup, domain)).organisation


async def _record(lookup: Lookup, name: str) -> DmarcRecord | None:
    texts = (await lookup(f"_dmarc.{name}", "TXT")).texts
    records = [text for text in texts if is_dmarc(text)]
    if len(records) > 1:
        raise DmarcError(f"{len(records)} DMARC records, where there may be one")
    meant = records or [text for text in texts if is_nearly_dmarc(text)]
    return read_dmarc(meant[0]) if meant else None


async def _exists(lookup: Lookup, domain: str) -> bool:
    """RFC 9989 3.2: a domain without A, AAAA and MX records is not there."""
    if (await lookup(domain, "MX")).exchangers:
        return True
    return bool((await lookup(domain, "A")).values or (await lookup(domain, "AAAA")).values)
