"""The live keys of a database, and moving rows from one key to another."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from pathlib import Path

from smtpproxy.store.key_files import FILE_NAME, add_key, drop_keys, load_keys
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.records import KeyStatus, StoreMisconfigured
from smtpproxy.store.register import Register
from smtpproxy.store.sql.rows import Row, record_of, to_micros
from smtpproxy.store.sql.session import ASKED_EXACT, ASKED_WIDE, Session, asked

LIVE = "SELECT version, fingerprint FROM suppression_key WHERE retired_at IS NULL ORDER BY version"

Live = list[tuple[int, str]]
"""(version, fingerprint) of each live key, the oldest first."""


def live_ring(keys: KeyRing, wanted: Live, place: object) -> KeyRing:
    """Return only the live ones of the keys in the file.

    Raises:
        StoreMisconfigured: a live key is missing.
    """
    found = {(key.version, key.fingerprint): key for key in keys.keys}
    missing = [f"{version} ({name})" for version, name in wanted if (version, name) not in found]
    if missing or not wanted:
        which = f"key {', '.join(missing)}" if missing else "its key"
        raise StoreMisconfigured(
            f"{place}: its suppressions are stored under a key that is not in {FILE_NAME}: {which} "
            "is missing; copy the file from a relay that has it, or restore the one that belongs "
            "to this database"
        )
    return KeyRing(found[one] for one in wanted)


class LiveKeys:
    """The keys of a store, read again when other keys become live: each call asks the database."""

    def __init__(self, place: object, state_dir: Path) -> None:
        """`place` names the database in messages."""
        self._place = place
        self._state_dir = state_dir
        self._live: Live = []
        self._keys: KeyRing | None = None

    async def current(self, session: Session) -> KeyRing:
        """Return the live keys; in a write transaction they stay live until its end.

        Raises StoreMisconfigured.
        """
        wanted = await _live(session)
        while self._keys is None or wanted != self._live:
            # A key is added to the file before it becomes live, and removed after it was retired:
            # if the live ones are the same before and after reading, the file must have them.
            keys, before = load_keys(self._state_dir), wanted
            wanted = await _live(session)
            if before == wanted:
                self._keys, self._live = live_ring(keys, wanted, self._place), wanted
        return self._keys


async def _live(session: Session) -> Live:
    return [(version, fingerprint) for version, fingerprint in await session.fetch_all(LIVE)]


# Finds the old keys with rows. Without OFFSET 0, PostgreSQL may read both tables instead.
_STORED = f"""
SELECT asked.key FROM json_each(?2) AS asked
WHERE EXISTS (SELECT 1 FROM suppression WHERE {ASKED_WIDE} AND {ASKED_EXACT} /*OFFSET 0*/)
   OR EXISTS (SELECT 1 FROM lifted_suppression WHERE {ASKED_EXACT} /*OFFSET 0*/)
"""
# ?1 and ?2 are the old keys of an address, ?3 and ?4 those under the key of version ?5.
_NEW_KEYS = "wide_key = ?3, exact_key = ?4, key_version = ?5"
_MOVE = f"""
UPDATE suppression AS old SET {_NEW_KEYS} WHERE wide_key = ?1 AND exact_key = ?2
AND NOT EXISTS (SELECT 1 FROM suppression AS kept WHERE kept.wide_key = ?3 AND kept.exact_key = ?4
                AND kept.scope = old.scope AND kept.origin = old.origin)
"""
# If the same suppression is stored under both keys, the later one counts, and it is no longer
# attributed to an import.
_MERGE = """
UPDATE suppression AS kept SET
    since = CASE WHEN gone.since > kept.since THEN gone.since ELSE kept.since END,
    note = CASE WHEN gone.since > kept.since THEN coalesce(gone.note, kept.note)
           ELSE coalesce(kept.note, gone.note) END,
    given_by = CASE WHEN gone.since > kept.since THEN gone.given_by ELSE kept.given_by END,
    renewed_at = CASE WHEN gone.renewed_at > coalesce(kept.renewed_at, 0) THEN gone.renewed_at
                 ELSE kept.renewed_at END,
    import = NULL, also = NULL, earlier = NULL
FROM suppression AS gone
WHERE gone.wide_key = ?1 AND gone.exact_key = ?2 AND kept.wide_key = ?3 AND kept.exact_key = ?4
  AND kept.scope = gone.scope AND kept.origin = gone.origin
"""
_MOVE_HASHES = """
UPDATE partner_hash AS old SET exact_key = ?2 WHERE exact_key = ?1
AND NOT EXISTS (SELECT 1 FROM partner_hash AS kept WHERE kept.exact_key = ?2 AND kept.key = old.key)
"""
_CLEAR = "DELETE FROM suppression WHERE wide_key = ? AND exact_key = ?"
_MOVE_LIFTED = f"UPDATE lifted_suppression SET {_NEW_KEYS} WHERE wide_key = ?1 AND exact_key = ?2"

_STATUS = """
SELECT version, fingerprint, made_at,
       (SELECT count(*) FROM suppression WHERE key_version = version),
       (SELECT count(*) FROM lifted_suppression WHERE key_version = version)
FROM suppression_key WHERE retired_at IS NULL ORDER BY version
"""
_REMAINS = """
SELECT EXISTS (SELECT 1 FROM suppression WHERE key_version <> ?1)
    OR EXISTS (SELECT 1 FROM lifted_suppression WHERE key_version <> ?1)
"""
_PUT = "INSERT INTO suppression_key (version, fingerprint, made_at) VALUES (?, ?, ?)"
_RETIRE = "UPDATE suppression_key SET retired_at = ? WHERE version <> ? AND retired_at IS NULL"
ADDRESSES = "SELECT id, address FROM contact WHERE id > ? ORDER BY id LIMIT ?"
_PAGE_SIZE = 2_000


async def move(session: Session, moves: Sequence[Row]) -> int:
    """Move rows to the newest key; return how many.

    Each move is (old wide, old exact, new wide, new exact, version). The same suppression under
    both keys becomes one, as if it had been added again: nothing is lost or lifted.
    """
    old = asked((wide, exact) for wide, exact, *_ in moves)
    moves = [moves[place] for (place,) in await session.fetch_all(_STORED, *old)]
    moved = await session.run_many(_MOVE, moves)
    await session.run_many(_MERGE, [row[:4] for row in moves])
    await session.run_many(_MOVE_HASHES, [(row[1], row[3]) for row in moves])
    moved += await session.run_many(_CLEAR, [row[:2] for row in moves])
    return moved + await session.run_many(_MOVE_LIFTED, moves)


def moves_of(keys: KeyRing, addresses: Sequence[str]) -> list[Row]:
    """Return the moves for addresses. Raises AddressError."""
    moves: list[Row] = []
    for address in addresses:
        (key, pair), *older = keys.places(address)
        moves += [(*old, *pair, key.version) for _, old in older]
    return sorted(moves)


class Rekeying(Register):
    """The part of a store about replacing the key that addresses of suppressions are hashed with.

    Meanwhile both keys are live: no lookup misses a row under either.
    """

    async def _keys_changed(self, session: Session) -> None:
        """Notify readers, in the transaction that changed the keys."""

    async def keys(self) -> Sequence[KeyStatus]:
        """Return the live keys, the newest last."""
        async with self._reading() as session:
            return [record_of(KeyStatus, row) for row in await session.fetch_all(_STATUS)]

    async def start_rekey(self, *, at: datetime, force: bool = False) -> int:
        """Make a new key the newest, unless there are already two; return its version.

        The key is added to the key file of this machine first. Raises `NotEverywhere` as long as
        another relay lacks it, unless `force`.
        """
        async with self._writing() as session:
            keys = await self._keys.current(session)
            if len(keys.versions) > 1:
                return keys.newest.version
            # The file comes first, so that readers find the key there when the database names it.
            live = {key.version: key.fingerprint for key in keys.keys}
            newest = add_key(self._state_dir, live).newest
            if not force:
                await self._refuse_to_lack(
                    session, FILE_NAME, newest.version, newest.fingerprint, at
                )
            await session.run(_PUT, newest.version, newest.fingerprint, to_micros(at))
            await self._keys_changed(session)
            return newest.version

    async def rekey(self, addresses: Sequence[str]) -> int:
        """Move the rows of addresses to the newest key; return how many."""
        async with self._writing() as session:
            keys = await self._keys.current(session)
            return await move(session, moves_of(keys, addresses))

    async def contact_addresses(self) -> AsyncGenerator[Sequence[str], None]:
        """Yield the address of every contact, a few thousand at a time."""
        last = 0
        async with self._reading() as session:
            while page := await session.fetch_all(ADDRESSES, last, _PAGE_SIZE):
                yield [address for _, address in page]
                last = page[-1][0]

    async def finish_rekey(self, *, at: datetime) -> bool:
        """Retire the older key. Returns False and changes nothing if a row is still under it."""
        async with self._writing() as session:
            newest = (await self._keys.current(session)).newest.version
            if (await session.fetch_all(_REMAINS, newest))[0][0]:
                return False
            await session.run(_RETIRE, to_micros(at), newest)
            await self._keys_changed(session)
        drop_keys(self._state_dir, [newest])
        return True
