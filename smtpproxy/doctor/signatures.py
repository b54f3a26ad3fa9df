"""DKIM of a domain: whether what is published is the key that signs."""

from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.mail.dkim.record import KeyRecord, read_record
from smtpproxy.mail.dkim.tags import TagError
from smtpproxy.relay.dkim.keys import GOOD_BITS, KeyFault, SigningKey, read_key
from smtpproxy.resolver import DnsFailure
from smtpproxy.settings import DkimSettings

NOT_SIGNED = "the relay signs no mail of this domain; of a key of the MTA nothing is known here"


class PublishedKey(Struct, frozen=True):
    """What the DNS has for one of our keys: records, or why there was no answer."""

    settings: DkimSettings
    key: SigningKey | None
    fault: str = ""  # of the file
    texts: tuple[bytes, ...] = ()
    failure: str = ""  # of the DNS

    @property
    def name(self) -> str:
        return f"{self.settings.selector}._domainkey.{self.settings.domain}"


def signs(settings: DkimSettings, domain: str) -> bool:
    """Whether a key signs mail whose From is of `domain`."""
    below = settings.subdomains and domain.endswith(f".{settings.domain}")
    return settings.domain == domain or below


async def published(lookup: Lookup, settings: DkimSettings) -> PublishedKey:
    """Read the key file and ask the DNS for what should be its public half."""
    try:
        key, fault = read_key(settings.key), ""
    except KeyFault as error:
        key, fault = None, str(error)
    found = PublishedKey(settings, key, fault)
    try:
        texts = (await lookup(found.name, "TXT")).texts
    except DnsFailure as error:
        return PublishedKey(settings, key, fault, failure=str(error))
    return PublishedKey(settings, key, fault, texts)


def judge_dkim(domain: str, keys: Sequence[PublishedKey]) -> list[Finding]:
    """`keys` are those that sign for the domain."""
    if not keys:
        mend = "let the relay sign ([[dkim]]), or look at what the MTA's signer says"
        return [Finding(Check.DKIM, domain, Status.UNKNOWN, NOT_SIGNED, mend)]
    return [Finding(Check.DKIM, domain, *_judged(each)) for each in keys]


def _judged(found: PublishedKey) -> tuple[Status, str, str]:
    name, key = found.name, found.key
    if key is None:
        return Status.FAIL, found.fault, "put the key back, or name another in [[dkim]]"
    if found.failure:
        return Status.UNKNOWN, f"no answer: {found.failure}", "look at the name servers, ask again"
    publish = f'publish TXT "{key.record}" at {name}'
    if not found.texts:
        return Status.FAIL, f"{name} has no record, so signatures do not verify", publish
    if len(found.texts) > 1:
        return (
            Status.FAIL,
            f"{name} has {len(found.texts)} records, of which one may be read",
            (f"leave one record at {name}"),
        )
    try:
        record = read_record(found.texts[0])
    except TagError as error:
        return Status.FAIL, f"the record at {name} cannot be used: {error}", publish
    if record.key_type != key.record.key_type or not _same(record, key.record):
        return Status.FAIL, f"the record at {name} is of another key", publish
    if record.testing:
        return Status.WARN, f"the record at {name} says t=y: receivers may ignore it", "drop t=y"
    if key.record.key_type == "rsa" and key.bits < GOOD_BITS:
        text = f"{name} matches; the key has {key.bits} bits"
        return Status.WARN, text, f"make one of {GOOD_BITS}: smtpproxy dkim keygen"
    size = f"{key.bits} bits" if key.record.key_type == "rsa" else "256 bits"
    return Status.PASS, f"{name} matches the key in use ({key.record.key_type}, {size})", ""


def _same(one: KeyRecord, other: KeyRecord) -> bool:
    return one.public == other.public or _plain(one) == _plain(other)


def _plain(record: KeyRecord) -> bytes:
    """One form for both ways in which RSA keys are published (RFC 6376 errata, PKCS #1)."""
    if record.key_type != "rsa":
        return record.public
    try:
        key = load_der_public_key(record.public)
    except (ValueError, UnsupportedAlgorithm):
        return record.public
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
