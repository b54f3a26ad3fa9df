"""Checks the signatures that apps have made (RFC 6376 section 6), with the keys in the DNS."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING

from smtpproxy.mail.dkim import (
    MIN_BITS,
    NAME,
    KeyRecord,
    Signature,
    TagError,
    hashed_signature,
    read_record,
    read_signature,
)
from smtpproxy.mail.dkim_canonical import BodyHash, hashed_fields
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import SignatureFinding, SignatureState
from smtpproxy.relay.content import Body
from smtpproxy.resolver import Answer, DnsFailure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MAX_SIGNATURES = 8
"""How many signatures of a message are checked, from the top."""

_ON_LOOP = 64 * 1024  # octets of a body
_MANY_NAMES = 2048
_KEYS = "cryptography.hazmat.primitives.serialization"  # 7 MB, loaded only for signed mail
_MAX_RECORDS = 8  # per name; an honest one has a single key

Texts = Callable[[str], Awaitable[Answer]]
"""Returns the TXT records of a name; raises DnsFailure."""


class Verifier:
    """Checks which DKIM signatures of a message are valid."""

    def __init__(self, texts: Texts, threads: Executor, now: Callable[[], float]) -> None:
        """`now` is Unix time."""
        self._texts = texts
        self._threads = threads
        self._now = now

    async def check(
        self,
        headers: HeaderBlock,
        body: Body | None,
        wanted: Sequence[bytes] = (),
        *,
        until_valid: bool = True,
    ) -> tuple[SignatureFinding, ...]:
        """Return the finding on each signature; `until_valid`: stop after the first valid one.

        Without a body, only the header is checked. The key of a signature that does not cover the
        fields `wanted` is not looked up.
        """
        if _KEYS not in sys.modules:  # other sessions have their turn while it is loaded
            await asyncio.get_running_loop().run_in_executor(self._threads, import_module, _KEYS)
        found: list[SignatureFinding] = []
        hashes: dict[tuple[bool, int | None], bytes | None] = {}
        fields = headers.raw_fields((NAME.lower().encode(),)).get(NAME.lower().encode(), [])
        for field in fields[:MAX_SIGNATURES]:
            finding = await self._check(field, headers, body, wanted, hashes)
            found.append(finding)
            if until_valid and finding.state is SignatureState.VALID:
                break
        return tuple(found)

    async def _check(
        self,
        field: bytes,
        headers: HeaderBlock,
        body: Body | None,
        wanted: Sequence[bytes],
        hashes: dict[tuple[bool, int | None], bytes | None],
    ) -> SignatureFinding:
        try:
            signature = read_signature(field, self._now())
            if len(signature.names) > _MANY_NAMES:
                raise TagError("it names too many fields")
        except TagError as error:
            return SignatureFinding("", "", SignatureState.UNUSABLE, str(error))
        finding = partial(SignatureFinding, signature.domain, signature.selector)
        if not signature.covers(*wanted):
            return finding(SignatureState.UNCOVERED)
        if body is not None:
            form = signature.relaxed_body, signature.limit
            if form not in hashes:
                hashes[form] = await self._body_hash(body, *form)
            if hashes[form] != signature.body_hash:
                return finding(SignatureState.BROKEN, "the body is not what was signed")
        try:
            records = (await self._texts(signature.record_name)).texts
        except DnsFailure as error:
            return finding(SignatureState.UNKNOWN, str(error))
        return finding(*_by_records(signature, field, headers, records))

    async def _body_hash(self, body: Body, relaxed: bool, limit: int | None) -> bytes | None:
        """The hash of the body; None if the body is shorter than what was signed."""

        def hashed() -> bytes | None:
            taken = BodyHash(relaxed=relaxed, limit=limit)
            for piece in body.pieces():
                taken.feed(piece)
            digest = taken.digest()
            return None if taken.short else digest

        if body.size <= _ON_LOOP:
            return hashed()
        return await asyncio.get_running_loop().run_in_executor(self._threads, hashed)


def _by_records(
    signature: Signature, field: bytes, headers: HeaderBlock, records: Sequence[bytes]
) -> tuple[SignatureState, str]:
    """Judge by the first record with a usable key; RFC 6376 6.1.2 leaves several undefined."""
    reason = "there is no key in the DNS"
    for text in records[:_MAX_RECORDS]:
        try:
            record = read_record(text)
            if f"{record.key_type}-sha256".encode() != signature.algorithm:
                raise TagError("its key has another type")
            if record.same_domain and not signature.of_domain:
                raise TagError("its key is not for i= below d=")
            key = public_key(record)
        except TagError as error:
            reason = str(error)
            continue
        fields = headers.raw_fields(frozenset(signature.names))
        signed = hashed_fields(signature.names, fields, relaxed=signature.relaxed_header)
        signed += hashed_signature(field, relaxed=signature.relaxed_header)
        if verified(key, signature.value, signed):
            return SignatureState.VALID, ""
        return SignatureState.BROKEN, "the header is not what was signed"
    return SignatureState.UNUSABLE, reason


async def record_of(texts: Texts, name: str) -> bytes | None:
    """Return the record that judges a signature: the first valid key record, or else the first."""
    try:
        found = (await texts(name)).texts[:_MAX_RECORDS]
    except DnsFailure:
        return None
    for text in found:
        with suppress(TagError):
            read_record(text)
            return text
    return next(iter(found), None)


def public_key(record: KeyRecord) -> "RSAPublicKey | Ed25519PublicKey":
    """Return the key of a record. Raises TagError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        if record.key_type == "ed25519":
            return Ed25519PublicKey.from_public_bytes(record.public)
        key = load_der_public_key(record.public)
    except (ValueError, UnsupportedAlgorithm):
        raise TagError("its p= contains no key") from None
    if not isinstance(key, RSAPublicKey):
        raise TagError("its p= contains a key of another kind")
    if key.key_size < MIN_BITS:
        raise TagError(f"its key has only {key.key_size} bits")
    return key


def verified(key: "RSAPublicKey | Ed25519PublicKey", value: bytes, signed: bytes) -> bool:
    """Whether `value` is a signature of `signed` by that key (RFC 8463 section 3 for Ed25519)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, RSAPublicKey):
            key.verify(value, signed, PKCS1v15(), SHA256())
        else:
            key.verify(value, sha256(signed).digest())
    except InvalidSignature:
        return False
    return True
