"""The register of the relays that use one store, the ids by which it knows them, and the keys of
links that they use.

It shows whether every relay has a new key, which counts only then, and whether configurations
differ, which makes relays judge the same message differently.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct, field

from smtpproxy.store.key_files import create_secret
from smtpproxy.store.link_keys import LINK_KEY_FILE
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.rows import optional_moment, to_micros
from smtpproxy.store.sql.session import Connections, Session, put_row

SILENT_AFTER = timedelta(hours=1)
"""A relay that has been silent for longer is not waited for: it has ended, or cannot reach the
store and accepts no mail. It does not start again without the keys that are in use by then."""
FORGOTTEN_AFTER = timedelta(days=30)

Fingerprints = Mapping[int, str]
"""Fingerprints of keys, by version: they identify the keys without revealing them."""


class RelayState(Struct, frozen=True):
    """What a relay registers. `keys` are fingerprints by key file."""

    host: str
    keys: dict[str, dict[int, str]]
    streams: dict[str, str] = field(default_factory=dict)  # descriptions by name
    brands: tuple[str, ...] = ()


class Relay(Struct, frozen=True):
    """A relay, by its `relay_id`, and what it last registered."""

    id: str
    at: datetime
    state: RelayState

    @property
    def name(self) -> str:
        """A name for people, unique even if hosts have the same name."""
        return f"{self.state.host} ({self.id[:6]})"

    def holds(self, file: str, version: int, fingerprint: str) -> bool:
        return self.state.keys.get(file, {}).get(version) == fingerprint


class NotEverywhere(StoreUnavailable):
    """Not every relay has a new key yet, so it is not used."""

    def __init__(self, file: str, version: int, relays: Sequence[Relay]) -> None:
        names = ", ".join(relay.name for relay in relays)
        super().__init__(
            f"key {version} is in {file} on this machine, but not yet on {names}: copy the file "
            "there, and run the same command again after some seconds, when they have read it, or "
            "with --force, if a relay will not come back. Until then the new key is not used"
        )


class OtherKeyCounts(StoreUnavailable):
    """Another machine made a key of the same version, and that one is used."""

    def __init__(self, version: int, counts: str, having: Sequence[Relay]) -> None:
        where = f"relay {having[0].name}" if having else "the machine that made it"
        super().__init__(
            f"key {version} of links ({counts}) was just made on another machine, and is used "
            f"instead of the one made here; copy {LINK_KEY_FILE} from {where}"
        )


def living(relays: Sequence[Relay], now: datetime) -> list[Relay]:
    return [relay for relay in relays if now - relay.at <= SILENT_AFTER]


_ID_FILE = "relay.id"
"""The file with the id of a relay, as host names may be the same, or change."""
_ID = re.compile(r"[0-9a-f]{16}")


def relay_id(state_dir: Path) -> str:
    """Return the id of the relay whose journals are in this folder; create it with the first use.

    It moves with the journals: their progress is stored under it. Raises OSError.
    """
    path = state_dir / _ID_FILE
    with suppress(FileNotFoundError):
        return _read_id(path)
    with suppress(FileExistsError):
        create_secret(path, secrets.token_hex(8) + "\n")
    return _read_id(path)


def known_relay_id(state_dir: Path) -> str | None:
    """Return the id if there is one. Raises OSError."""
    try:
        return _read_id(state_dir / _ID_FILE)
    except FileNotFoundError:
        return None


def _read_id(path: Path) -> str:
    text = path.read_bytes()[:64].decode("ascii", "replace").strip()
    if not _ID.fullmatch(text):
        raise OSError(f"{path}: not the id of a relay; remove the file to get a new one")
    return text


_TELL = put_row("relay", "id, at, state")
_FORGET = "DELETE FROM relay WHERE at < ?"
_RELAYS = "SELECT id, at, state FROM relay"
_USED = "SELECT version, fingerprint FROM link_key WHERE retired_at IS NULL ORDER BY version"
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
            if not await _used(session):
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
