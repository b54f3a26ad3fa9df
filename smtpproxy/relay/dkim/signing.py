"""Signing messages, and the keys that it is done with."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from smtpproxy.mail.dkim import hashed_signature, signed_field, unsigned_field
from smtpproxy.mail.dkim_canonical import SIGNED, BodyHash, to_sign
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim.keys import SigningKey, read_key
from smtpproxy.relay.errors import SigningFailed
from smtpproxy.settings import DkimSettings

_REMEMBERED = 4096
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key with the names under which verifiers find it."""

    settings: DkimSettings
    key: SigningKey


class Keyring:
    """The configured keys. Which are in force for a message is remembered until a date of
    rotation passes."""

    def __init__(self, keys: Mapping[DkimSettings, SigningKey]) -> None:
        self._keys = keys
        self._remembered: dict[tuple[str, str], tuple[RingKey, ...]] = {}
        self._until = _EARLIEST

    @classmethod
    def of(cls, settings: Sequence[DkimSettings]) -> "Keyring":
        """Read the key files. Raises KeyFault."""
        return cls({each: read_key(each.key) for each in settings})

    def in_force(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        """Return what signs: of those that fit, the newest of each type.

        RSA comes first: every verifier knows it, and some look at one field only.
        """
        if len(set(from_domains)) != 1:  # of which there may be thousands: not to be remembered
            return ()
        domain = from_domains[0]
        if now >= self._until or len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
            dates = [since(each) for each in self._keys]
            self._until = min((date for date in dates if date > now), default=_LATEST)
        known = self._remembered.get((domain, stream))
        if known is None:
            fit = fitting(self._keys, from_domains, stream, now)
            known = self._remembered[domain, stream] = self._newest(fit)
        return known

    def _newest(self, fit: Sequence[DkimSettings]) -> tuple[RingKey, ...]:
        found: dict[str, RingKey] = {}
        for each in sorted(fit, key=lambda each: (bool(each.streams), since(each))):
            key = self._keys[each]
            found[key.record.key_type] = RingKey(each, key)
        return tuple(found[kind] for kind in ("rsa", "ed25519") if kind in found)


def fitting(
    keys: Iterable[DkimSettings], from_domains: Sequence[str], stream: str, now: datetime
) -> list[DkimSettings]:
    """Return the keys that may sign such a message now; none: it leaves unsigned.

    All addresses of From have to be of the key's domain. Keys of the domain itself come
    before those of one above it.
    """
    domains = set(from_domains)
    if len(domains) != 1:
        return []
    (domain,) = domains
    above = domain
    while above:
        fit = [
            each
            for each in keys
            if each.domain == above
            and (above == domain or each.subdomains)
            and (not each.streams or stream in each.streams)
            and since(each) <= now
        ]
        if fit:
            return fit
        above = above.partition(".")[2]
    return []


def since(key: DkimSettings) -> datetime:
    """Return from when on a key signs."""
    return key.since or _EARLIEST


_ON_LOOP = 64 * 1024  # octets of a body: about 0.1 ms


class Signer:
    """Makes the DKIM-Signature fields of messages, without holding up other sessions.

    See docs/adr/0012-dkim.md for what goes to a thread.
    """

    def __init__(self, keyring: Keyring, threads: Executor) -> None:
        self._keyring = keyring
        self._threads = threads

    def keys(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        """Return the keys that sign such a message now; none: it goes unsigned."""
        return self._keyring.in_force(from_domains, stream, now)

    async def sign(
        self,
        keys: Sequence[RingKey],
        headers: HeaderBlock,
        body: Body,
        at: datetime,
    ) -> bytes:
        """Return the fields that go before the header. Raises SigningFailed."""
        moment = int(at.timestamp())
        try:
            if body.size <= _ON_LOOP and all(each.key.record.key_type != "rsa" for each in keys):
                return sign(keys, headers, body, moment)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, lambda: sign(keys, headers, body, moment)
            )
        except Exception as error:  # whatever it is, the mail must not leave unsigned
            raise SigningFailed(f"{type(error).__name__}: {error}") from error


def sign(keys: Sequence[RingKey], headers: HeaderBlock, body: Body, moment: int) -> bytes:
    """Return one DKIM-Signature field for each key. `moment` is Unix time."""
    if body.signed_hash is None:
        hashed = BodyHash()
        for piece in body.pieces():
            hashed.feed(piece)
        body.signed_hash = hashed.digest()
    names, hashed_header = to_sign(headers.values_by_name(SIGNED))
    header = sha256(hashed_header)
    made = []
    for each in keys:
        unsigned = unsigned_field(
            each.key.algorithm,
            each.settings.domain,
            each.settings.selector,
            moment,
            names,
            body.signed_hash,
        )
        digest = header.copy()
        digest.update(hashed_signature(unsigned))
        made.append(signed_field(unsigned, each.key.sign(digest.digest())))
    return b"".join(made)
