"""Signing what we relay: the last edit of a message (RFC 6376, RFC 8463)."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import datetime
from hashlib import sha256

from smtpproxy.mail.dkim import hashed_signature, signed_field, unsigned_field
from smtpproxy.mail.dkim_canonical import SIGNED, BodyHash, to_sign
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim.keyring import Keyring, RingKey
from smtpproxy.relay.errors import SigningFailed

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
