"""The table of imports, and undoing one, part by part."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from smtpproxy.policy.model import Contact
from smtpproxy.store.merge import Known
from smtpproxy.store.operations import UNDO_FOR, Batch, Checkpoint, ImportRecord, State, Undone
from smtpproxy.store.records import BatchResult
from smtpproxy.store.sql import contacts as contact_table
from smtpproxy.store.sql import imported_contacts
from smtpproxy.store.sql import suppressions as suppression_table
from smtpproxy.store.sql.imported_contacts import Origin
from smtpproxy.store.sql.rows import Row, to_micros
from smtpproxy.store.sql.session import Connections, Session
from smtpproxy.store.undo import Fate
from smtpproxy.store.undo_contact import contact_without

_PART = 2_000  # rows undone in one commit
_SPAN = 20_000  # numbers of contacts searched in one commit
_FORGOTTEN = 100_000  # old versions that one import deletes at most, so that it starts soon

_ALL = "SELECT record FROM import ORDER BY number"
_ONE = """
SELECT number, record, coalesce(first_contact, 1), coalesce(last_contact, 0), undo_cursor
FROM import WHERE id = ?
"""
_ADD = "INSERT INTO import (id, record) VALUES (?, ?)"
_PUT = "UPDATE import SET record = ? WHERE number = ?"
_CURSOR = "UPDATE import SET undo_cursor = ? WHERE number = ?"
_CONTACTS = """
UPDATE import SET first_contact = coalesce(first_contact, ?1), last_contact = ?2 WHERE number = ?3
"""
_LAST_CONTACT = "SELECT coalesce(max(id), 0) FROM contact"
_UNDONE = """
SELECT number FROM import WHERE json_extract(record, '$.state') IN ('undone', 'undoing')
"""
_OLD = "SELECT max(number) FROM import WHERE json_extract(record, '$.started_at') < ?"

_COUNTS = ("added", "changed", "unchanged", "older", "erased")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ImportRecord).decode


class _Stored(msgspec.Struct):
    """An import's row."""

    number: int
    record: ImportRecord
    first: int
    last: int
    cursor: str | None


async def _found(session: Session, id: str) -> _Stored:
    for number, record, *rest in await session.fetch_all(_ONE, id):
        return _Stored(number, _decode(record), *rest)
    raise KeyError(id)


async def number_of(session: Session, batch: Batch | None) -> int | None:
    """Return the number of the import that a batch belongs to."""
    return (await _found(session, batch.id)).number if batch else None


async def newest_contact(session: Session) -> int:
    number: int = (await session.fetch_all(_LAST_CONTACT))[0][0]
    return number


async def record_batch(
    session: Session,
    batch: Batch | None,
    result: BatchResult,
    before: int | None = None,
) -> None:
    """Record the result of a batch in its commit. `before` is the newest contact until then."""
    if batch is None:
        return
    stored = await _found(session, batch.id)
    counts = {name: getattr(stored.record, name) + getattr(result, name) for name in _COUNTS}
    await _put(session, stored.number, replace(stored.record, place=batch.place, **counts))
    if before is not None and result.added:
        last = await newest_contact(session)
        await session.run(_CONTACTS, before + 1, last, stored.number)


async def _put(session: Session, number: int, record: ImportRecord) -> None:
    await session.run(_PUT, _encode(record).decode(), number)


class Imports(Connections):
    """The part of a store about imports. Methods raise KeyError for an unknown id."""

    async def begin_import(self, record: ImportRecord) -> None:
        """Record an import, before its first batch."""
        async with self._writing() as session:
            oldest = (record.started_at - UNDO_FOR).isoformat()
            if (old := (await session.fetch_all(_OLD, oldest))[0][0]) is not None:
                await imported_contacts.forget(session, old + 1, _FORGOTTEN)
            await session.run(_ADD, record.id, _encode(record).decode())

    async def mark_import(
        self, id: str, state: State, *, at: datetime | None, place: Checkpoint | None = None
    ) -> None:
        """Record the state of an import, when it ended, and how far it got."""
        async with self._writing() as session:
            stored = await _found(session, id)
            place = place or stored.record.place
            record = replace(stored.record, state=state, ended_at=at, place=place)
            await _put(session, stored.number, record)

    async def imports(self) -> Sequence[ImportRecord]:
        """Return all imports, the oldest first."""
        async with self._reading() as session:
            return [_decode(row[0]) for row in await session.fetch_all(_ALL)]

    async def undo_import(
        self, id: str, *, at: datetime, by: str, may_lift: Callable[[str], bool] | None = None
    ) -> Undone | None:
        """Undo a part of an import, in one commit; return None once all of it is undone.

        Call it until it returns None. New contacts are removed with their acts and purchases;
        profiles and suppressions are restored, and new suppressions lifted, which stays on
        record. What others have changed or confirmed since stays, and so do suppressions of a scope
        that may not be lifted.
        """
        async with self._reading() as session:
            stored = await _found(session, id)
            if stored.record.state == "undone":
                return None
            keys = await _next_suppressions(session, stored)
        async with self._writing() as session:
            stored = await _found(session, id)
            undone = stored.record.undone or Undone(at, by)
            if stored.record.kind == "suppressions":
                gone = await _undone(session)
                lift = (to_micros(at), f"import {id} undone by {by}")
                own = [key for key in keys if may_lift is None or may_lift(key[2])]
                removed, put_back, kept = await suppression_table.undo(
                    session, stored.number, gone, own, lift
                )
                counts = (removed, put_back, kept + len(keys) - len(own))
                cursor = _key_text(keys[-1]) if keys else None
            else:
                counts, cursor = await _undo_contacts(session, stored)
            undone = undone.and_then(*counts)
            state: State = "undone" if cursor is None else "undoing"
            await _put(session, stored.number, replace(stored.record, state=state, undone=undone))
            await session.run(_CURSOR, cursor, stored.number)
            return undone

    async def without_import(self, id: str) -> AsyncGenerator[Mapping[str, Contact | None], None]:
        """Yield contacts, by address, as an undo of the import would leave them; None: removed."""
        async with self._reading() as session:
            stored = await _found(session, id)
            if stored.record.kind == "suppressions":
                return
            after = 0
            while numbers := await imported_contacts.changed(session, stored.number, after, _PART):
                yield await _left_of(session, stored, numbers)
                after = numbers[-1]
            for first in range(stored.first, stored.last + 1, _PART):
                made = stored.number, first, min(first + _PART - 1, stored.last)
                yield dict.fromkeys(await imported_contacts.addresses_made(session, *made))
                if confirmed := await imported_contacts.confirmed_made(session, *made):
                    yield await _left_of(session, stored, confirmed)

    async def would_undo(self, id: str, *, at: datetime) -> Undone:
        """Return what `undo_import` would do in all, without doing it."""
        async with self._reading() as session:
            stored = await _found(session, id)
            undone = Undone(at, "")
            gone = await _undone(session)
            if stored.record.kind == "suppressions":
                while keys := await _next_suppressions(session, stored):
                    undone = undone.and_then(
                        *await suppression_table.undo(session, stored.number, gone, keys, None)
                    )
                    stored.cursor = _key_text(keys[-1])
                return undone
            after = 0
            while numbers := await imported_contacts.changed(session, stored.number, after, _PART):
                undone = undone.and_then(*(await _without(session, stored, numbers))[0])
                after = numbers[-1]
            removed, kept = await imported_contacts.count_made(
                session, stored.number, stored.first, stored.last
            )
            return undone.and_then(removed, 0, kept)


async def _left_of(
    session: Session, stored: _Stored, numbers: Sequence[int]
) -> Mapping[str, Contact | None]:
    _, left, _ = await _without(session, stored, numbers)
    now = await contact_table.by_number(session, numbers)
    return {
        one.contact.address: None if (known := left[n]) is None else known.contact
        for n, one in now.items()
    }


def _key_text(key: Row) -> str:
    wide, exact, scope, origin = key
    return _encode([wide.hex(), exact.hex(), scope, origin]).decode()


async def _undone(session: Session) -> list[int]:
    """Return the imports that are undone, or being undone."""
    return [row[0] for row in await session.fetch_all(_UNDONE)]


async def _next_suppressions(session: Session, stored: _Stored) -> list[Row]:
    """Return the keys of the next part, or none for an import of contacts."""
    if stored.record.kind != "suppressions":
        return []
    after = suppression_table.FIRST
    if stored.cursor is not None:
        wide, exact, scope, origin = msgspec.json.decode(stored.cursor, type=list[str])
        after = (bytes.fromhex(wide), bytes.fromhex(exact), scope, origin)
    return await suppression_table.page(session, stored.number, after, _PART)


_Counts = tuple[int, int, int]  # removed, put back, kept


async def _undo_contacts(session: Session, stored: _Stored) -> tuple[_Counts, str | None]:
    """Undo the next part; return the counts, and the cursor, or None at the end.

    The contacts that others have touched too come first, then all others that the import created.
    """
    made, after = msgspec.json.decode(stored.cursor or "[false,0]", type=tuple[bool, int])
    if not made:
        numbers = await imported_contacts.changed(session, stored.number, after, _PART)
        counts = await _write_without(session, stored, numbers)
        next_cursor = (False, numbers[-1]) if numbers else (True, stored.first - 1)
        return counts, _encode(next_cursor).decode()
    first, last = after + 1, min(after + _SPAN, stored.last)
    if first > last:
        return (0, 0, 0), None
    confirmed = await imported_contacts.confirmed_made(session, stored.number, first, last)
    gone, put_back, kept = await _write_without(session, stored, confirmed)
    gone += await imported_contacts.remove_made(session, stored.number, first, last)
    return (gone, put_back, kept), _encode((True, last)).decode()


async def _write_without(session: Session, stored: _Stored, numbers: Sequence[int]) -> _Counts:
    if not numbers:
        return (0, 0, 0)
    counts, left, origins = await _without(session, stored, numbers)
    await contact_table.remove(session, [n for n, known in left.items() if known is None])
    kept = {number: known for number, known in left.items() if known is not None}
    await contact_table.overwrite(session, kept, origins)
    return counts


async def _without(
    session: Session, stored: _Stored, numbers: Sequence[int]
) -> tuple[_Counts, dict[int, Known | None], dict[int, Origin]]:
    """Return the counts, what is left of each contact without the import, and its origin."""
    now = await contact_table.by_number(session, numbers)
    chains = await imported_contacts.chains(session, numbers)
    origins = await imported_contacts.origins(session, numbers)
    undone = [number for number in await _undone(session) if number != stored.number]
    left: dict[int, Known | None] = {}
    fates: Counter[Fate] = Counter()
    for number, known in now.items():
        origin = origins[number]
        left[number], fate = contact_without(
            chains.get(number, ()),
            known,
            origin.owner,
            stored.number,
            undone,
            origin.repeats,
            keep_withdrawals=origin.confirmed,
        )
        fates[fate] += 1
    return (fates["removed"], fates["put back"], fates["kept"]), left, origins
