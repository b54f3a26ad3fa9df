"""Writing and exporting contacts and their consent acts."""

from collections.abc import AsyncGenerator, Sequence

import aiosqlite
import msgspec

from smtpproxy.policy.model import ConsentAct, Contact
from smtpproxy.store.merge import Known, Tally, merge
from smtpproxy.store.protocols import BatchResult, ContactUpdate
from smtpproxy.store.sqlite import rows
from smtpproxy.store.sqlite.rows import ACT_COLUMNS, CONTACT_COLUMNS, Row
from smtpproxy.store.sqlite.writer import fetch_all, run_many

_COLUMNS = f"{CONTACT_COLUMNS}, as_of"
_VALUES = ", ".join(f"?{place}" for place in range(1, _COLUMNS.count(",") + 2))
_INSERT = f"INSERT INTO contact ({_COLUMNS}) VALUES ({_VALUES})"
_UPDATE = f"UPDATE contact SET ({_COLUMNS}) = ({_VALUES}) WHERE id = ?1"
_INSERT_ACT = f"""
INSERT INTO consent_act (contact, sequence, {ACT_COLUMNS})
VALUES (?, ?{", ?" * len(ACT_COLUMNS.split(","))})
"""
_BY_ADDRESS = f"SELECT {_COLUMNS} FROM contact WHERE address IN (SELECT value FROM json_each(?))"
_BY_ID = f"SELECT {_COLUMNS} FROM contact WHERE id > ? ORDER BY id LIMIT ?"
_ACTS = f"""
SELECT contact, {ACT_COLUMNS} FROM consent_act WHERE contact IN (SELECT value FROM json_each(?))
ORDER BY contact, at, withdrawal, sequence
"""
_PAGE_SIZE = 1_000


class _Entry:
    """A contact of the batch: its row, and what of it is to be written."""

    __slots__ = ("acts", "is_new", "known", "number", "touched")

    def __init__(self, number: int, known: Known | None) -> None:
        self.number = number
        self.known = known
        self.is_new = known is None
        self.touched = False
        self.acts: list[Row] = []

    def apply(self, update: ContactUpdate, tally: Tally) -> None:
        merged = merge(self.known, update)
        start = len(self.known.contact.acts) if self.known else 0
        tally.count(new=self.known is None, changed=merged.changed, older=merged.older)
        self.acts += [
            rows.act_row(self.number, start + place, act)
            for place, act in enumerate(merged.new_acts)
        ]
        self.touched |= merged.touched
        self.known = merged.known

    def row(self) -> Row:
        assert self.known is not None
        return rows.contact_row(self.number, self.known.contact, self.known.as_of)


async def put(connection: aiosqlite.Connection, updates: Sequence[ContactUpdate]) -> BatchResult:
    entries = await _stored(connection, [update.contact.address for update in updates])
    number = (await fetch_all(connection, "SELECT coalesce(max(id), 0) FROM contact"))[0][0]
    tally = Tally()
    for update in updates:
        address = update.contact.address
        entry = entries.get(address)
        if entry is None:
            number += 1
            entry = entries[address] = _Entry(number, None)
        entry.apply(update, tally)
    touched = [entry for entry in entries.values() if entry.touched]
    await run_many(connection, _INSERT, [entry.row() for entry in touched if entry.is_new])
    await run_many(connection, _UPDATE, [entry.row() for entry in touched if not entry.is_new])
    await run_many(connection, _INSERT_ACT, [row for entry in touched for row in entry.acts])
    return tally.result()


async def erase(connection: aiosqlite.Connection, address: str) -> bool:
    """Remove the contact; its acts go with it."""
    return await run_many(connection, "DELETE FROM contact WHERE address = ?", [(address,)]) > 0


async def export(connection: aiosqlite.Connection) -> AsyncGenerator[Contact, None]:
    """Read page by page: one long read would keep the log from being emptied."""
    last = 0
    while page := await fetch_all(connection, _BY_ID, last, _PAGE_SIZE):
        acts = await _acts(connection, page)
        for row in page:
            yield rows.contact(row[:-1], acts.get(row[0], ()))
        last = page[-1][0]


async def stored(connection: aiosqlite.Connection, addresses: list[str]) -> dict[str, Known]:
    """Return what is known of each address, with the age of its profile."""
    entries = await _stored(connection, addresses)
    return {address: entry.known for address, entry in entries.items() if entry.known}


async def _stored(connection: aiosqlite.Connection, addresses: list[str]) -> dict[str, _Entry]:
    found = await fetch_all(connection, _BY_ADDRESS, msgspec.json.encode(addresses).decode())
    acts = await _acts(connection, found)
    return {
        row[1]: _Entry(
            row[0],
            Known(rows.contact(row[:-1], acts.get(row[0], ())), rows.optional_moment(row[-1])),
        )
        for row in found
    }


async def _acts(
    connection: aiosqlite.Connection, contacts: list[Row]
) -> dict[int, tuple[ConsentAct, ...]]:
    """Return the acts of each contact that has any, oldest first."""
    if not contacts:
        return {}
    numbers = msgspec.json.encode([row[0] for row in contacts]).decode()
    acts: dict[int, tuple[ConsentAct, ...]] = {}
    for number, *act in await fetch_all(connection, _ACTS, numbers):
        acts[number] = (*acts.get(number, ()), rows.act(tuple(act)))
    return acts
