"""The part of the SQLite store that puts contacts right, and keeps a record of it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import aiosqlite
import msgspec

from smtpproxy.mail.address import canonical, widened
from smtpproxy.policy.model import Suppression
from smtpproxy.store.protocols import BatchResult, SuppressionEntry
from smtpproxy.store.rectify import corrected, following
from smtpproxy.store.rights import Change, Correction, Rectification
from smtpproxy.store.sqlite import contacts as contact_table
from smtpproxy.store.sqlite.rows import from_micros, to_micros
from smtpproxy.store.sqlite.writer import SqliteWriter, fetch_all, run_many

_NUMBER = "SELECT id FROM contact WHERE address = ?"
_RECORD = "INSERT INTO rectification (contact, at, reason, changes) VALUES (?, ?, ?, ?)"
_MOVE = "UPDATE rectification SET contact = ? WHERE contact = ?"
_RECORDED = """
SELECT at, reason, changes FROM rectification JOIN contact ON contact.id = rectification.contact
WHERE address = ? ORDER BY at, rectification.id
"""
# Tags begin with +, and a comma is the next character after it.
_TAGGED = "SELECT address FROM contact WHERE address >= ? AND address < ? ORDER BY address"

_read_changes = msgspec.json.Decoder(tuple[Change, ...]).decode


class Rights:
    """Keeps `RightsStore` for the store that it is mixed into."""

    def _to_write(self) -> SqliteWriter:
        raise NotImplementedError

    def _reading(self) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        raise NotImplementedError

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        raise NotImplementedError

    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        raise NotImplementedError

    async def rectify(
        self, address: str, correction: Correction, *, at: datetime, reason: str
    ) -> Rectification | None:
        name = canonical(address)
        new = correction.new_address or name
        if new != name:
            async with self._reading() as connection:
                if not await fetch_all(connection, _NUMBER, name):
                    return None
            # First of all: should the rest fail, somebody is mailed too little, not too much.
            await self.add_suppressions(following(await self.suppressions(name), new))
        async with self._to_write().transaction() as connection:
            known = await contact_table.stored(connection, [name, new])
            if name not in known:
                return None
            target = known.get(new) if new != name else None
            update, changes = corrected(known[name], target, correction, at)
            done = Rectification(at, reason, changes)
            if changes:
                await contact_table.put(connection, [update])
                await _record(connection, name, new, done)
        return done

    async def rectifications(self, address: str) -> Sequence[Rectification]:
        async with self._reading() as connection:
            found = await fetch_all(connection, _RECORDED, canonical(address))
        return [
            Rectification(from_micros(at), reason, _read_changes(changes))
            for at, reason, changes in found
        ]

    async def variants(self, address: str) -> Sequence[str]:
        name = canonical(address)
        local, _, domain = name.rpartition("@")
        base = local.partition("+")[0] or local
        async with self._reading() as connection:
            tagged = await fetch_all(connection, _TAGGED, f"{base}+", f"{base},")
            plain = await fetch_all(connection, _TAGGED, f"{base}@{domain}", f"{base}@{domain}\0")
        alike = [row[0] for row in (*plain, *tagged) if widened(row[0]) == widened(name)]
        return [one for one in alike if one != name]


async def _record(
    connection: aiosqlite.Connection, name: str, new: str, done: Rectification
) -> None:
    number = (await fetch_all(connection, _NUMBER, new))[0][0]
    if new != name:
        old = (await fetch_all(connection, _NUMBER, name))[0][0]
        await run_many(connection, _MOVE, [(number, old)])
        await contact_table.erase(connection, name)
    changes = msgspec.json.encode(done.changes).decode()
    await run_many(connection, _RECORD, [(number, to_micros(done.at), done.reason, changes)])
