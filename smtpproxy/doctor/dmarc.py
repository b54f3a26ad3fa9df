"""DKIM and DMARC of a domain, and whether its mail is aligned with what SPF and DKIM prove.

The DMARC record is found by the tree walk of RFC 9989, which replaces the list of public
suffixes of RFC 7489.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.mail.dkim import KeyRecord, TagError, read_record
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
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_signing import GOOD_BITS, KeyFault, RingKey, SigningKey, read_key, sign
from smtpproxy.relay.dkimpy import Dkimpy, Verdict
from smtpproxy.resolver import DnsFailure
from smtpproxy.settings import DkimSettings


class Dmarc(Struct, frozen=True):
    """The DMARC record that applies to a domain, and where it was found.

    `at` is the name that has the record, None without one; `organisation` is the domain that
    relaxed alignment compares. `problem` describes a record that cannot be used. `exists`: the
    domain itself has an address or accepts mail.
    """

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
    """Find the record for a From domain. Raises DnsFailure."""
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
    if at is None:  # otherwise only a public suffix can have one
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
        raise DmarcError(f"{len(records)} DMARC records, where only one is allowed")
    meant = records or [text for text in texts if is_nearly_dmarc(text)]
    return read_dmarc(meant[0]) if meant else None


async def _exists(lookup: Lookup, domain: str) -> bool:
    """RFC 9989 3.2: a domain without A, AAAA and MX records does not exist."""
    if (await lookup(domain, "MX")).exchangers:
        return True
    return bool((await lookup(domain, "A")).values or (await lookup(domain, "AAAA")).values)


NOT_SIGNED = "the relay signs no mail of this domain, and cannot see whether the MTA does"


class PublishedKey(Struct, frozen=True):
    """What the DNS has for one of the relay's keys: records, or why there was no answer."""

    settings: DkimSettings
    key: SigningKey | None
    fault: str = ""  # of the file
    texts: tuple[bytes, ...] = ()
    failure: str = ""  # of the DNS
    dkimpy: Verdict | None = None  # on a message signed with the key; None: not asked


async def published(lookup: Lookup, settings: DkimSettings) -> PublishedKey:
    """Read the key file, and ask the DNS for its public half."""
    try:
        found = PublishedKey(settings, read_key(settings.key))
    except KeyFault as error:
        found = PublishedKey(settings, None, str(error))
    try:
        return replace(found, texts=(await lookup(settings.record_name, "TXT")).texts)
    except DnsFailure as error:
        return replace(found, failure=str(error))


async def checked_by_dkimpy(dkimpy: Dkimpy, found: PublishedKey, now: datetime) -> PublishedKey:
    """Have dkimpy check a message signed with the key against the record, as receivers would."""
    if found.key is None or len(found.texts) != 1:
        return found
    domain, body = found.settings.domain, b"A test.\r\n"
    head = f"From: <postmaster@{domain}>\r\nSubject: A test\r\n\r\n".encode()
    content = Body(lambda: iter((body,)), len(body))
    keys = [RingKey(found.settings, found.key)]
    field = sign(keys, HeaderBlock(head), content, int(now.timestamp()))
    verdict = await dkimpy.verdict(field + head + body, 0, domain, found.texts[0])
    return replace(found, dkimpy=verdict)


def judge_dkim(domain: str, keys: Sequence[PublishedKey]) -> list[Finding]:
    """`keys` are those that sign for the domain."""
    if not keys:
        fix = "have the relay sign ([[dkim]]), or check the MTA's own signer"
        return [Finding(Check.DKIM, domain, Status.UNKNOWN, NOT_SIGNED, fix)]
    return [Finding(Check.DKIM, domain, *_judge_key(each)) for each in keys]


def _judge_key(found: PublishedKey) -> tuple[Status, str, str]:
    name, key = found.settings.record_name, found.key
    if key is None:
        return Status.FAIL, found.fault, "put the key back, or name another in [[dkim]]"
    if found.failure:
        fix = "check the name servers, then ask again"
        return Status.UNKNOWN, f"no answer: {found.failure}", fix
    publish = f'publish TXT "{key.record}" at {name}'
    if not found.texts:
        return Status.FAIL, f"{name} has no record, so signatures do not verify", publish
    if len(found.texts) > 1:
        text = f"{name} has {len(found.texts)} records, where only one is allowed"
        return Status.FAIL, text, f"leave one record at {name}"
    try:
        record = read_record(found.texts[0])
    except TagError as error:
        return Status.FAIL, f"the record at {name} cannot be used: {error}", publish
    if record.key_type != key.record.key_type or not _same(record, key.record):
        return Status.FAIL, f"the record at {name} belongs to another key", publish
    if found.dkimpy is Verdict.NOT_VALID:
        text = f"dkimpy rejects this key's signatures by the record at {name}"
        return Status.FAIL, text, publish
    if found.dkimpy is Verdict.UNANSWERED:
        return Status.UNKNOWN, f"{name} matches, but dkimpy gives no answer", "ask again"
    if record.testing:
        return Status.WARN, f"the record at {name} has t=y: receivers may ignore it", "remove t=y"
    if key.record.key_type == "rsa" and key.bits < GOOD_BITS:
        text = f"{name} matches; the key has {key.bits} bits"
        return Status.WARN, text, f"make one of {GOOD_BITS}: smtpproxy dkim keygen"
    size = f"{key.bits} bits" if key.record.key_type == "rsa" else "256 bits"
    text = f"{name} matches the key in use ({key.record.key_type}, {size})"
    if found.dkimpy is not None:
        text += "; dkimpy verifies its signatures"
    return Status.PASS, text, ""


def _same(one: KeyRecord, other: KeyRecord) -> bool:
    return one.public == other.public or _comparable(one) == _comparable(other)


def _comparable(record: KeyRecord) -> bytes:
    """Return one form for both encodings of published RSA keys (RFC 6376 errata, PKCS #1)."""
    if record.key_type != "rsa":
        return record.public
    try:
        key = load_der_public_key(record.public)
    except (ValueError, UnsupportedAlgorithm):
        return record.public
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def judge_dmarc(domain: str, found: Dmarc) -> Finding:
    """Judge the record that applies to a From domain."""
    record, at = found.record, found.at
    if found.problem and (record is None or at != domain):
        text = f"the record cannot be used: {found.problem}"
        return _dmarc(domain, Status.FAIL, text, f'publish one TXT "{_example(domain)}"')
    if record is None:
        fix = f'publish TXT "{_example(domain)}" at _dmarc.{found.organisation}'
        return _dmarc(domain, Status.FAIL, "no DMARC record", fix)
    text = f"p={found.policy(domain)} at _dmarc.{at}"
    if record.broken_reports:
        text += f", and nobody gets reports: {record.no_reports}"
        return _dmarc(domain, Status.FAIL, text, f"rua=mailto:dmarc@{domain}, or no rua= at all")
    if record.ignored:
        text += f"; receivers ignore this part: {'; '.join(record.ignored)}"
        return _dmarc(domain, Status.WARN, text, f'write it as in "{_example(domain)}"')
    if record.testing:
        return _dmarc(domain, Status.WARN, f"{text}, but with t=y it is not applied", "remove t=y")
    if found.policy(domain) == "none":
        fix = "once the reports show that all mail is aligned, set p=quarantine or p=reject"
        return _dmarc(domain, Status.WARN, f"{text}: forged mail is only reported", fix)
    if record.no_reports:
        return _dmarc(domain, Status.WARN, f"{text}, and nobody gets reports", "add rua=mailto:…")
    return _dmarc(domain, Status.PASS, text)


def judge_alignment(
    domain: str,
    found: Dmarc,
    spf: Finding,
    dkim: Sequence[Finding],
    keys: Sequence[PublishedKey],
    organisations: dict[str, str],
) -> Finding:
    """Judge whether SPF or DKIM is aligned with From (RFC 9989).

    `dkim` are the findings for `keys`; `organisations` has the organisations of their domains.
    SPF is aligned if the reverse path is in the From domain, which the sending application
    chooses: only DKIM makes it certain.
    """
    record = found.record
    strict = record is not None and record.strict_dkim
    good = (Status.PASS, Status.WARN)
    aligned = [
        key.settings.domain
        for key, finding in zip(keys, dkim, strict=False)
        if finding.status in good
        and _aligned(key.settings.domain, domain, organisations, found.organisation, strict)
    ]
    judged = partial(Finding, Check.ALIGNMENT, domain)
    if aligned:
        return judged(Status.PASS, f"DKIM signs with d={aligned[0]}, which is aligned")
    if keys and any(finding.status in good for finding in dkim):
        text = f"adkim=s requires d={domain}, but the relay signs as {keys[0].settings.domain}"
        return judged(Status.FAIL, text, f"sign as {domain}, or remove adkim=s")
    if spf.status in good:
        text = f"only by SPF, and only if the reverse path is in {domain} too"
        return judged(Status.WARN, text, _SIGN)
    if any(each.status is Status.UNKNOWN for each in (spf, *dkim)):
        return judged(Status.UNKNOWN, "it is not known whether SPF or DKIM would pass", _SIGN)
    return judged(Status.FAIL, "neither SPF nor DKIM would pass", _SIGN)


_SIGN = "sign with a key of the domain ([[dkim]]), so that forwarded mail is believed too"


def _aligned(
    signer: str, domain: str, organisations: dict[str, str], organisation: str, strict: bool
) -> bool:
    if signer == domain:
        return True
    return not strict and organisations.get(signer, signer) == organisation


def _example(domain: str) -> str:
    return f"v=DMARC1; p=none; rua=mailto:dmarc@{domain}"


_dmarc = partial(Finding, Check.DMARC)
