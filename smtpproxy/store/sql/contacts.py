"""The tables of contacts, their acts, wishes and rectifications."""

from collections import Counter
from collections.abc import AsyncGenerator, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import field

from smtpproxy.mail.address import widened
from smtpproxy.mail.mailboxes import recorded
from smtpproxy.policy.model import ConsentAct, Contact
from smtpproxy.policy.rules.recipient import restricting
from smtpproxy.store.merge import Known, merge, refusals
from smtpproxy.store.operations import Change, Rectification
from smtpproxy.store.records import BatchResult, ContactUpdate
from smtpproxy.store.sql import imported_contacts, rows
from smtpproxy.store.sql.imported_contacts import IS_ASKED, OF_ASKED, Origin
from smtpproxy.store.sql.rows import ACT_COLUMNS, CONTACT_COLUMNS, Row, from_micros, to_micros
from smtpproxy.store.sql.said_last import as_known, said_last
from smtpproxy.store.sql.session import Connections, Session, listed, looked_up
from smtpproxy.store.undo_contact import repeated_items

_COLUMNS = f"{CONTACT_COLUMNS}, as_of"
_VALUES = ", ".join(f"?{place}" for place in range(1, _COLUMNS.count(",") + 2))
_INSERT = f"INSERT INTO contact ({_COLUMNS}, import) VALUES ({_VALUES}, ?)"
_UPDATE = f"""
UPDATE contact SET ({_COLUMNS}, import, withdrawal_confirmed, told) = ({_VALUES}, ?, ?, ?)
WHERE id = ?1
"""
_INSERT_ACT = f"""
INSERT INTO consent_act (contact, sequence, {ACT_COLUMNS})
VALUES (?, ?{", ?" * len(ACT_COLUMNS.split(","))})
"""
_FORGET_ACTS = "DELETE FROM consent_act WHERE contact = ?"
_BY_ADDRESS = f"""
SELECT contact.{_COLUMNS} FROM json_each(?) AS asked
{looked_up("contact", "address = asked.value")} WHERE address = asked.value
"""
_BY_NUMBER = f"""
SELECT contact.{_COLUMNS} FROM json_each(?) AS asked
{looked_up("contact", IS_ASKED)} WHERE {IS_ASKED}
"""
_BY_ID = f"SELECT {_COLUMNS} FROM contact WHERE id > ? ORDER BY id LIMIT ?"
_ACTS = f"""
SELECT contact, {ACT_COLUMNS} FROM json_each(?) AS asked
{looked_up("consent_act", OF_ASKED)} WHERE {OF_ASKED}
ORDER BY contact, at, withdrawal, sequence
"""
_PAGE_SIZE = 1_000


class _Entry(msgspec.Struct):
    """A contact of a batch, and which of its rows have to be written."""

    number: int
    known: Known | None
    is_new: bool = False
    origin: Origin = field(default_factory=Origin)
    versions: list[Row] = []
    touched: bool = False
    acts: list[Row] = []
    restricted: frozenset[str] = frozenset()  # new tags that restrict
    corrected: bool = False  # stored acts were replaced by more complete ones: write all

    def apply(self, update: ContactUpdate, counts: Counter[str], importer: int | None) -> None:
        merged = merge(self.known, update)
        self._remember(update, importer, changed=merged.changed)
        start = len(self.known.contact.acts) if self.known else 0
        tags = self.known.contact.tags if self.known else frozenset()
        if added := merged.known.contact.tags - tags:
            self.restricted |= restricting(added, update.restricted_tags)
        changed = "changed" if merged.changed else "unchanged"
        counts["added" if self.known is None else changed] += 1
        counts["older"] += merged.older
        self.acts += [
            rows.act_row(self.number, start + place, act)
            for place, act in enumerate(merged.new_acts)
        ]
        self.touched |= merged.touched
        self.corrected |= merged.corrected
        self.known = merged.known

    def _remember(self, update: ContactUpdate, importer: int | None, *, changed: bool) -> None:
        """Record the new author of the state, and the earlier state."""
        owner, confirmed, repeats = self.origin.owner, self.origin.confirmed, self.origin.repeats
        if self.known is None:
            self.origin = Origin(importer)
            return
        if owner == importer:
            return
        if not confirmed and imported_contacts.confirms(self.known, update):
            confirmed = self.touched = True
        if importer is not None:
            repeats = repeated_items(repeats, importer, self.known, update)
            self.touched |= repeats is not self.origin.repeats
        if changed:
            version = imported_contacts.version_row(self.number, self.known, owner, importer)
            self.versions.append(version)
            owner = importer
        self.origin = Origin(owner, confirmed, repeats)

    def act_rows(self) -> list[Row]:
        """Return the rows to insert."""
        if not self.corrected or self.known is None:
            return self.acts
        acts = self.known.contact.acts
        return [rows.act_row(self.number, place, act) for place, act in enumerate(acts)]

    def row(self) -> Row:
        assert self.known is not None
        row = rows.contact_row(self.number, self.known.contact, self.known.as_of)
        if self.is_new:
            return (*row, self.origin.owner)
        return (*row, *self.origin.row())


async def put(
    session: Session,
    updates: Sequence[ContactUpdate],
    importer: int | None = None,
    erased: Container[str] = (),
) -> tuple[BatchResult, list[tuple[int, str]]]:
    """Insert or update. `importer` is the number of the import that the updates belong to.

    People in `erased` are left out; of those who have come back by themselves, only refusals are
    stored. Also returns the new restricting tags, with their contacts.
    """
    entries = await _stored(session, [update.contact.address for update in updates])
    by_number = {entry.number: entry for entry in entries.values()}
    for number, origin in (await imported_contacts.origins(session, list(by_number))).items():
        by_number[number].origin = origin
    number = (await session.fetch_all("SELECT coalesce(max(id), 0) FROM contact"))[0][0]
    counts, now = Counter[str](), datetime.now(UTC)
    for update in updates:
        address = update.contact.address
        entry = entries.get(address)
        if address in erased:
            refusing = refusals(update)
            if entry is None or refusing is None:
                counts["erased"] += 1
                continue
            update = refusing
        if entry is None:
            number += 1
            entry = entries[address] = _Entry(number, None, is_new=True)
        if entry.known is not None:
            entry.known = as_known(entry.known, now)
            update = said_last(update, entry.known, now)
        entry.apply(update, counts, importer)
    touched = [entry for entry in entries.values() if entry.touched]
    await _write(session, touched)
    await imported_contacts.remember(session, [row for one in touched for row in one.versions])
    restricted = [(one.number, tag) for one in touched for tag in sorted(one.restricted)]
    contacts = {name: one.known.contact for name, one in entries.items() if one.known}
    return BatchResult(**counts, contacts=contacts), restricted


async def erase(session: Session, address: str) -> bool:
    """Remove the contact; its acts go with it."""
    return await session.run_many("DELETE FROM contact WHERE address = ?", [(address,)]) > 0


async def stored(session: Session, addresses: list[str]) -> dict[str, Known]:
    """Return the contact of each address, with the date of its profile."""
    entries = await _stored(session, addresses)
    return {address: entry.known for address, entry in entries.items() if entry.known}


async def anybody_moved(session: Session) -> bool:
    return bool(await session.fetch_all(_ANYBODY_MOVED))


async def moved_to(session: Session, addresses: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Return pairs of a former address and the present one it was corrected to."""
    return [(old, new) for old, new in await session.fetch_all(_MOVED_TO, listed(addresses))]


async def by_number(session: Session, numbers: Sequence[int]) -> dict[int, Known]:
    """Return each contact, with the date of its profile."""
    found = await session.fetch_all(_BY_NUMBER, listed(numbers))
    acts = await _acts(session, found)
    return {row[0]: _known(row, acts) for row in found}


async def overwrite(
    session: Session,
    contacts: Mapping[int, Known],
    origins: Mapping[int, Origin],
) -> None:
    """Replace stored contacts, with their acts and origins."""
    entries = [_Entry(n, known, origin=origins[n], corrected=True) for n, known in contacts.items()]
    await _write(session, entries)


async def _write(session: Session, entries: Sequence[_Entry]) -> None:
    await session.run_many(_INSERT, [one.row() for one in entries if one.is_new])
    await session.run_many(_UPDATE, [one.row() for one in entries if not one.is_new])
    await session.run_many(_FORGET_ACTS, [(one.number,) for one in entries if one.corrected])
    await session.run_many(_INSERT_ACT, [row for one in entries for row in one.act_rows()])


async def remove(session: Session, numbers: Iterable[int]) -> None:
    await session.run_many("DELETE FROM contact WHERE id = ?", [(one,) for one in numbers])


async def record(session: Session, name: str, new: str, done: Rectification) -> None:
    """Record a rectification, perhaps with a new address, which takes the place of the old one."""
    number = (await session.fetch_all(_NUMBER, new))[0][0]
    if new != name:
        old = (await session.fetch_all(_NUMBER, name))[0][0]
        await session.run_many(_MOVE, [(number, old)])
        await erase(session, name)
    changes = msgspec.json.encode(done.changes).decode()
    await session.run_many(_RECORD, [(number, to_micros(done.at), done.reason, changes)])


def _known(row: Row, acts: dict[int, tuple[ConsentAct, ...]]) -> Known:
    return Known(rows.contact(row[:-1], acts.get(row[0], ())), rows.optional_moment(row[-1]))


async def _stored(session: Session, addresses: list[str]) -> dict[str, _Entry]:
    found = await session.fetch_all(_BY_ADDRESS, listed(dict.fromkeys(addresses)))
    acts = await _acts(session, found)
    return {row[1]: _Entry(row[0], _known(row, acts)) for row in found}


async def _acts(session: Session, contacts: list[Row]) -> dict[int, tuple[ConsentAct, ...]]:
    """Return the acts of each contact that has any, oldest first."""
    if not contacts:
        return {}
    acts: dict[int, list[ConsentAct]] = {}
    for number, *act in await session.fetch_all(_ACTS, listed(row[0] for row in contacts)):
        acts.setdefault(number, []).append(rows.act(tuple(act)))
    return {number: tuple(each) for number, each in acts.items()}


_NUMBER = "SELECT id FROM contact WHERE address = ?"
_RECORD = "INSERT INTO rectification (contact, at, reason, changes) VALUES (?, ?, ?, ?)"
_MOVE = "UPDATE rectification SET contact = ? WHERE contact = ?"
_RECORDED = """
SELECT at, reason, changes FROM rectification JOIN contact ON contact.id = rectification.contact
WHERE address = ? ORDER BY at, rectification.id
"""
# As in the index of them: the address is the first field that a correction names.
_IS_MOVE = """changes LIKE '[{"field":"address",%'"""
_ANYBODY_MOVED = f"SELECT 1 FROM rectification WHERE {_IS_MOVE} LIMIT 1"
_BEFORE = "json_extract(json_extract(changes, '$[0]'), '$.before')"
_OF_NAME = f"{_BEFORE} = asked.value AND {_IS_MOVE}"
_OF_MOVE = "contact.id = rectification.contact"
_MOVED_TO = f"""
SELECT asked.value, contact.address FROM json_each(?) AS asked
{looked_up("rectification", _OF_NAME)} {looked_up("contact", _OF_MOVE)}
WHERE {_OF_NAME} AND {_OF_MOVE} AND contact.address <> asked.value
"""
# Tags begin with +, and a comma is the next character after it.
_TAGGED = "SELECT address FROM contact WHERE address >= ? AND address < ? ORDER BY address"

_PLAIN = "SELECT address FROM contact WHERE address = ?"

_read_changes = msgspec.json.Decoder(tuple[Change, ...]).decode


class Contacts(Connections):
    """The part of a store about people's contacts and their right to have them corrected."""

    async def _put(
        self,
        session: Session,
        updates: Sequence[ContactUpdate],
        importer: int | None = None,
        erased: Container[str] = (),
    ) -> BatchResult:
        result, restricted = await put(session, updates, importer, erased)
        if restricted:
            await self._restricted(session, restricted)
        return result

    async def _restricted(self, session: Session, tags: Sequence[tuple[int, str]]) -> None:
        """Record new restricting tags of contacts, in a store that keeps a journal of those."""

    async def profiles(
        self, addresses: Sequence[str]
    ) -> Mapping[str, tuple[Contact, datetime | None]]:
        """Return the contacts of canonical addresses, each with the age of its profile."""
        async with self._reading() as session:
            found = await stored(session, list(addresses))
        return {name: (known.contact, known.as_of) for name, known in found.items()}

    async def export_contacts(self) -> AsyncGenerator[Contact, None]:
        """Yield every contact. Others can write meanwhile: it is not one snapshot."""
        # Page by page: during one long read the log could not be emptied.
        last = 0
        async with self._reading() as session:
            while page := await session.fetch_all(_BY_ID, last, _PAGE_SIZE):
                acts = await _acts(session, page)
                for row in page:
                    yield rows.contact(row[:-1], acts.get(row[0], ()))
                last = page[-1][0]

    async def rectifications(self, address: str) -> Sequence[Rectification]:
        """Return the rectifications of exactly this address, oldest first."""
        async with self._reading() as session:
            found = await session.fetch_all(_RECORDED, recorded(address))
        return [Rectification(from_micros(at), why, _read_changes(what)) for at, why, what in found]

    async def moved_to(self, address: str) -> Sequence[str]:
        """Return the present addresses of contacts that had exactly this one before."""
        async with self._reading() as session:
            found = await moved_to(session, [recorded(address)])
        return sorted({new for _, new in found})

    async def variants(self, address: str) -> Sequence[str]:
        """Return the other contacts whose addresses differ only by a plus-tag."""
        name = recorded(address)
        local, _, domain = name.rpartition("@")
        base = local.partition("+")[0] or local
        async with self._reading() as session:
            tagged = await session.fetch_all(_TAGGED, f"{base}+", f"{base},")
            plain = await session.fetch_all(_PLAIN, f"{base}@{domain}")
        others = [row[0] for row in (*plain, *tagged) if row[0] != name]
        return [one for one in others if widened(one) == widened(name)]
