"""The tables of relays and of the keys of links."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from smtpproxy.store.link_keys import LINK_KEY_FILE
from smtpproxy.store.register import (
    FORGOTTEN_AFTER,
    Fingerprints,
    NotEverywhere,
    OtherKeyCounts,
    Relay,
    RelayState,
    known_relay_id,
    living,
)
from smtpproxy.store.sql.rows import optional_moment, to_micros
from smtpproxy.store.sql.session import Connections, Session, put_row

_TELL = put_row("relay", "id, at, state")
_FORGET = "DELETE FROM relay WHERE at < ?"
_RELAYS = "SELECT id, at, state FROM relay"
_USED = "SELECT version, fingerprint FROM link_key WHERE retired_at IS NULL ORDER BY version"
_NONE_COUNTS = "SELECT NOT EXISTS (SELECT 1 FROM link_key WHERE retired_at IS NULL)"
_USE = """
INSERT INTO link_key (version, fingerprint, used_from) VALUES (?, ?, ?)
ON CONFLICT (version) DO UPDATE SET fingerprint = excluded.fingerprint,
    used_from = excluded.used_from, retired_at = NULL
WHERE link_key.retired_at IS NOT NULL
"""
_RETIRE = "UPDATE link_key SET retired_at = ? WHERE version = ? AND retired_at IS NULL"

_read_state = msgspec.json.Decoder(RelayState).decode


async def relays(session: Session) -> Sequence[Relay]:
    found = [
        Relay(id, at, _read_state(state))
        for id, micros, state in await session.fetch_all(_RELAYS)
        if (at := optional_moment(micros)) is not None
    ]
    return sorted(found, key=lambda relay: (relay.state.host, relay.id))


class Register(Connections):
    """The part of a store about relays and the keys of their links."""

    async def tell(self, id: str, state: RelayState, *, at: datetime) -> None:
        """Register a relay's state; remove relays that have been silent for FORGOTTEN_AFTER."""
        written = msgspec.json.encode(state).decode()
        async with self._writing() as session:
            await session.run(_TELL, id, to_micros(at), written)
            await session.run(_FORGET, to_micros(at - FORGOTTEN_AFTER))

    async def relays(self) -> Sequence[Relay]:
        """Return all registered relays, in the order of their hosts."""
        async with self._reading() as session:
            return await relays(session)

    async def link_keys(self) -> Fingerprints:
        """Return the keys in use for links; the newest seals new ones."""
        async with self._reading() as session:
            return dict(await _used(session))

    async def register_link_keys(self, held: Fingerprints, *, at: datetime) -> Fingerprints:
        """Take these into use if there are none; return those in use afterwards."""
        async with self._writing() as session:
            if (await session.fetch_all(_NONE_COUNTS))[0][0]:
                rows = [(version, name, to_micros(at)) for version, name in held.items()]
                await session.run_many(_USE, rows)
            return dict(await _used(session))

    async def use_link_key(
        self, version: int, fingerprint: str, *, at: datetime, force: bool = False
    ) -> None:
        """Seal new links with a key. Raises NotEverywhere, unless `force`; OtherKeyCounts."""
        async with self._writing() as session:
            if not force:
                await self._refuse_to_lack(session, LINK_KEY_FILE, version, fingerprint, at)
            await session.run(_USE, version, fingerprint, to_micros(at))
            counts = dict(await _used(session))[version]
            if counts != fingerprint:
                all = await relays(session)
                having = [one for one in all if one.holds(LINK_KEY_FILE, version, counts)]
                raise OtherKeyCounts(version, counts, having)

    async def retire_link_key(self, version: int, *, at: datetime) -> bool:
        """Stop requiring a key, so that its links no longer work; False if it is not in use."""
        async with self._writing() as session:
            return await session.run(_RETIRE, to_micros(at), version) > 0

    async def _refuse_to_lack(
        self, session: Session, file: str, version: int, fingerprint: str, at: datetime
    ) -> None:
        """Raise NotEverywhere if a live relay, other than this machine's own, lacks a key."""
        own = known_relay_id(self._state_dir)
        lacking = [
            relay
            for relay in living(await relays(session), at)
            if relay.id != own and not relay.holds(file, version, fingerprint)
        ]
        if lacking:
            raise NotEverywhere(file, version, lacking)


async def _used(session: Session) -> Sequence[tuple[int, str]]:
    return [(version, name) for version, name in await session.fetch_all(_USED)]
