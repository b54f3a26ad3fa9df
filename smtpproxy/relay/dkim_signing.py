"""DKIM: private keys, read from files and checked, and the signatures made with them."""

import asyncio
import binascii
import os
import stat
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec import Struct

from smtpproxy.disk import read_fault
from smtpproxy.mail.dkim import (
    MIN_BITS,
    KeyRecord,
    KeyType,
    SigningFailed,
    hashed_signature,
    signed_field,
    unsigned_field,
)
from smtpproxy.mail.dkim_canonical import SIGNED, BodyHash, to_sign
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body
from smtpproxy.settings import DkimSettings

GOOD_BITS, MAX_BITS = 2048, 4096
"""For RSA keys (RFC 8301 section 3.2). Verifiers need not accept more than the last."""

_PADDING, _PREHASHED = PKCS1v15(), Prehashed(SHA256())


class KeyFault(Exception):
    """A file cannot be used as a key; the text says why and how to fix it."""


class SigningKey(Struct, frozen=True):
    """`sign` takes the SHA-256 of what is signed. `bits` is the size of an RSA key; Ed25519 has
    256."""

    record: KeyRecord
    bits: int
    sign: Callable[[bytes], bytes]

    @property
    def algorithm(self) -> str:
        return f"{self.record.key_type}-sha256"


def read_key(path: Path) -> SigningKey:
    """Read an RSA or Ed25519 key: PEM without a passphrase, or 32 octets in base64.

    Raises KeyFault, also if others may read the file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(65_536)
    except OSError as error:
        raise KeyFault(read_fault(path, error)) from None
    if mode & stat.S_IRWXO:
        raise KeyFault(f"{path} may be read by others (mode {mode:04o}): chmod o= {path}")
    try:
        return signing_key(_private_key(text))
    except KeyFault as fault:
        raise KeyFault(f"{path} {fault}") from None


def signing_key(key: RSAPrivateKey | Ed25519PrivateKey) -> SigningKey:
    """Raises KeyFault for a key that is too short."""
    if isinstance(key, Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return SigningKey(KeyRecord("ed25519", public), 256, key.sign)
    if key.key_size < MIN_BITS:
        raise KeyFault(
            f"is an RSA key of {key.key_size} bits, which nobody accepts (RFC 8301 3.2):"
            " smtpproxy dkim keygen makes one of 2048"
        )
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(digest: bytes) -> bytes:
        return key.sign(digest, _PADDING, _PREHASHED)

    return SigningKey(KeyRecord("rsa", public), key.key_size, sign)


def new_key(kind: KeyType, bits: int = GOOD_BITS) -> tuple[bytes, SigningKey]:
    """Make a key; return its PEM (PKCS #8) and the key."""
    key: RSAPrivateKey | Ed25519PrivateKey
    if kind == "ed25519":
        key = Ed25519PrivateKey.generate()
    else:
        key = generate_private_key(public_exponent=65_537, key_size=bits)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, signing_key(key)


def _private_key(text: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    if not text.strip().startswith(b"-----"):
        try:
            return Ed25519PrivateKey.from_private_bytes(b64decode(text, validate=False))
        except (binascii.Error, ValueError):
            raise KeyFault(f"contains no private key: {_RIGHT}") from None
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:
        raise KeyFault("needs a passphrase: store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault(f"contains no readable private key: {_RIGHT}") from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise KeyFault(f"contains a key of another kind: {_RIGHT}")
    return key


_RIGHT = "an RSA or Ed25519 key in PEM, as smtpproxy dkim keygen makes it"


_REMEMBERED = 4096
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class RingKey(Struct, frozen=True):
    """A key with the names under which verifiers find it."""

    settings: DkimSettings
    key: SigningKey


class Keyring:
    """The configured keys. Which ones sign a message is cached until a rotation date passes."""

    def __init__(self, keys: Mapping[DkimSettings, SigningKey]) -> None:
        self._keys = keys
        self._remembered: dict[tuple[str, str], tuple[RingKey, ...]] = {}
        self._until = _EARLIEST

    @classmethod
    def of(cls, settings: Sequence[DkimSettings]) -> "Keyring":
        """Read the key files. Raises KeyFault."""
        return cls({each: read_key(each.key) for each in settings})

    @property
    def keys(self) -> Iterable[SigningKey]:
        return self._keys.values()

    def in_force(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        """Return the keys that sign: of those that fit, the newest of each type.

        RSA comes first, because every verifier supports it and some check only one field.
        """
        if len(set(from_domains)) != 1:  # there may be thousands, so it is not cached
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
    """Return the keys that may sign such a message now; if none, it leaves unsigned.

    All addresses of From must be in the key's domain. Keys of the domain itself come before those
    of a parent domain.
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
    """Return the moment from which a key signs."""
    return key.since or _EARLIEST


_ON_LOOP = 64 * 1024  # octets of a body: about 0.1 ms
_SignElsewhere = Callable[[SigningKey, bytes], Awaitable[bytes]]


class Signer:
    """Makes the DKIM-Signature fields of messages without blocking other sessions.

    docs/adr/0012-dkim.md says what runs where.
    """

    def __init__(
        self, keyring: Keyring, threads: Executor, elsewhere: _SignElsewhere | None = None
    ) -> None:
        """`elsewhere` signs with RSA keys; without it, `threads` do."""
        self._keyring = keyring
        self._threads = threads
        self._elsewhere = elsewhere or self._in_thread

    def keys(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        """Return the keys that sign such a message now; if none, it leaves unsigned."""
        return self._keyring.in_force(from_domains, stream, now)

    async def sign(
        self,
        keys: Sequence[RingKey],
        headers: HeaderBlock,
        body: Body,
        at: datetime,
    ) -> bytes:
        """Return the fields to put before the header. Raises SigningFailed."""
        try:
            if body.signed_hash is None and body.size > _ON_LOOP:
                await asyncio.get_running_loop().run_in_executor(self._threads, _hash, body)
            made = []
            for key, unsigned, digest in _unsigned(keys, headers, body, int(at.timestamp())):
                rsa = key.record.key_type == "rsa"
                signature = await self._elsewhere(key, digest) if rsa else key.sign(digest)
                made.append(signed_field(unsigned, signature))
            return b"".join(made)
        except Exception as error:  # whatever it is, the mail must not leave unsigned
            raise SigningFailed(f"{type(error).__name__}: {error}") from error

    async def _in_thread(self, key: SigningKey, digest: bytes) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, key.sign, digest)


def sign(keys: Sequence[RingKey], headers: HeaderBlock, body: Body, moment: int) -> bytes:
    """Return one DKIM-Signature field for each key. `moment` is Unix time."""
    return b"".join(
        signed_field(unsigned, key.sign(digest))
        for key, unsigned, digest in _unsigned(keys, headers, body, moment)
    )


def _unsigned(
    keys: Sequence[RingKey], headers: HeaderBlock, body: Body, moment: int
) -> Iterator[tuple[SigningKey, bytes, bytes]]:
    """Yield each key, its field without the signature, and the digest to sign."""
    hashed_body = body.signed_hash or _hash(body)
    names, hashed_header = to_sign(headers.values_by_name(SIGNED))
    header = sha256(hashed_header)
    for each in keys:
        unsigned = unsigned_field(
            each.key.algorithm,
            each.settings.domain,
            each.settings.selector,
            moment,
            names,
            hashed_body,
        )
        digest = header.copy()
        digest.update(hashed_signature(unsigned))
        yield each.key, unsigned, digest.digest()


def _hash(body: Body) -> bytes:
    hashed = BodyHash()
    for piece in body.pieces():
        hashed.feed(piece)
    body.signed_hash = hashed.digest()
    return body.signed_hash
