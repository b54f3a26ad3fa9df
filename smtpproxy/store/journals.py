"""What the relays of one store share about their audit journals: erasures that all have to carry
out, an index of decisions, and the messages they ask each other about.

Only PostgreSQL has several relays. The journals themselves stay on each relay's disk.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from smtpproxy.policy.model import Action, Reason
from smtpproxy.store.feedback import ANSWERED_FOR, ASKED_FOR, SentMessage
from smtpproxy.store.sql.rows import Row, record_of, row_of, to_micros
from smtpproxy.store.sql.side_tables import SideTable, person_hash

PersonKey = Callable[[str], bytes]
"""Returns the keyed hash of a canonical address."""


class Outstanding(Struct, frozen=True):
    """Erasures that a relay has not carried out yet. `newest` is the number of the last one."""

    newest: int
    people: frozenset[bytes]


class Behind(Struct, frozen=True):
    """A relay that has yet to carry out an erasure; `told_at` is when it was last heard from."""

    relay: str
    host: str
    told_at: datetime


class IndexRow(Struct, frozen=True):
    """A row of the index: the decision about one recipient, and where its record is.

    `canonical` is the recipient, if known when the row is added; None when it is read.
    """

    relay: str
    file: str
    line: int
    recipient: int
    id: str
    at: datetime
    stream: str
    brand: str
    verdict: Action
    reason: Reason
    observed: bool = False
    canonical: str | None = None
    host: str = ""


class IndexQuery(Struct, frozen=True):
    """A query of the index; None or empty means any. `id` may be a prefix."""

    id: str | None = None
    recipients: tuple[str, ...] = ()
    brands: frozenset[str] = frozenset()
    stream: str | None = None
    verdict: Action | None = None
    reason: Reason | None = None
    since: datetime | None = None
    until: datetime | None = None


_TELL = """
INSERT INTO journal (relay, host, told_at) VALUES (?, ?, ?)
ON CONFLICT (relay) DO UPDATE SET host = excluded.host, told_at = excluded.told_at
RETURNING rows
"""
# Numbers then follow the order of commits: nobody reads up to 7 and misses 6.
_LOCK = "LOCK TABLE journal_erasure IN SHARE ROW EXCLUSIVE MODE"
_ERASE = "INSERT INTO journal_erasure (person, at) VALUES (?, ?) RETURNING id"
_FORGET = "UPDATE decision SET person = NULL WHERE person = ANY (?)"
_FORGET_OWN = "UPDATE decision SET person = NULL WHERE relay = ? AND person = ANY (?)"
# Answers about messages may name an erased person: they are given again, from the journals as
# erased.
_UNTELL = "UPDATE asked_message SET answer = NULL, relay = NULL, answered_at = NULL"
_OUTSTANDING = """
SELECT id, person FROM journal_erasure
WHERE id > least(?, coalesce((SELECT erased FROM journal WHERE relay = ?), 0))
"""
_CARRIED_OUT = "UPDATE journal SET erased = greatest(erased, ?) WHERE relay = ?"
_BEHIND = "SELECT relay, host, told_at FROM journal WHERE erased < ? ORDER BY host, relay"
_ADD = """
INSERT INTO decision
    (relay, file, line, recipient, id, at, stream, brand, verdict, reason, observed, person)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_READ = "SELECT rows FROM journal WHERE relay = ? FOR UPDATE"
_PUT_READ = "UPDATE journal SET rows = ? WHERE relay = ?"
_FIND = """
SELECT relay, file, line, recipient, id, at, stream, brand, verdict, reason, observed, NULL,
    journal.host
FROM (SELECT * FROM decision {where} {few}) AS decision JOIN journal USING (relay)
ORDER BY at DESC, id DESC, relay, file, line, recipient LIMIT {limit:d}
"""
# Else PostgreSQL, which plans for any id, may read all decisions from the newest on.
_FEW = "OFFSET 0"
# Each batch starts where the last one ended, to skip deleted rows that are still in the index.
_OLD = """
WITH gone AS (
    DELETE FROM decision WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM decision WHERE at >= ? AND at < ? ORDER BY at LIMIT ?
    )) RETURNING at
)
SELECT count(*), max(at) FROM gone
"""
_FIRST = -(2**62)  # microseconds, before all decisions
_OLD_ERASURES = "DELETE FROM journal_erasure WHERE at < ?"
_AT_ONCE = 5_000
_read = msgspec.json.Decoder(dict[int, int]).decode  # the last row of each slot
_LONGER = timedelta(days=365)
"""How much longer erasures are kept than journals: a relay may have been away."""


class SharedJournals(SideTable):
    """Methods raise StoreUnavailable."""

    async def tell(self, relay: str, host: str, at: datetime) -> Mapping[int, int]:
        """Register that a relay is alive; return the last row of each slot in the index."""
        async with self._tables.writing() as session:
            ((rows,),) = await session.fetch_all(_TELL, relay, host, to_micros(at))
        return _read(rows)

    async def add_erasure(self, address: str, at: datetime) -> int:
        """Request the erasure of a person from all journals; return the number of the erasure.

        The index no longer has them on return.
        """
        person = (await self.key())(address)
        async with self._tables.writing(flushed=True) as session:
            await session.run(_LOCK)
            ((number,),) = await session.fetch_all(_ERASE, person, to_micros(at))
            await session.run(_FORGET, [person])
            await session.run(_UNTELL)
        return int(number)

    async def outstanding(self, relay: str, carried_out: int) -> Outstanding:
        """Return the erasures that the relay has not reported to the store, or that its journal
        does not have as `carried_out`."""
        async with self._tables.reading() as session:
            found = await session.fetch_all(_OUTSTANDING, carried_out, relay)
        newest = max((number for number, _ in found), default=0)
        return Outstanding(newest, frozenset(person for _, person in found))

    async def carried_out(self, relay: str, outstanding: Outstanding) -> None:
        """Record that these people are no longer in the relay's journal."""
        async with self._tables.writing(flushed=True) as session:
            await session.run(_FORGET_OWN, relay, list(outstanding.people))
            await session.run(f"{_UNTELL} WHERE relay = ?", relay)
            await session.run(_CARRIED_OUT, outstanding.newest, relay)

    async def behind(self, erasure: int) -> Sequence[Behind]:
        """Return the relays that have not carried out that erasure yet."""
        async with self._tables.reading() as session:
            found = await session.fetch_all(_BEHIND, erasure)
        return [record_of(Behind, row) for row in found]

    async def key(self) -> PersonKey:
        """Return the function that hashes addresses."""
        return partial(person_hash, secret=await self._tables.hash_key())

    async def add(self, relay: str, rows: Sequence[IndexRow], read: Mapping[int, int]) -> None:
        """Add rows to the index, each once, and record up to which row of each slot it goes."""
        key = await self.key()
        written = [_written(row, key) for row in rows]
        async with self._tables.writing() as session:
            ((known,),) = await session.fetch_all(_READ, relay)
            await session.run_many(_ADD, written)
            after = msgspec.json.encode(_read(known) | dict(read)).decode()
            await session.run(_PUT_READ, after, relay)

    async def find(self, wanted: IndexQuery, limit: int, *, but: str = "") -> Sequence[IndexRow]:
        """Return the newest rows, newest first; those of the relay `but` are left out."""
        key = await self.key()
        conditions = {
            "decision.relay <> ?": but or None,
            "id >= ?": wanted.id,
            "id < ?": None if wanted.id is None else f"{wanted.id}\uffff",
            "person = ANY (?)": [key(one) for one in wanted.recipients] or None,
            "brand = ANY (?)": list(wanted.brands) or None,
            "stream = ?": wanted.stream,
            "verdict = ?": None if wanted.verdict is None else str(wanted.verdict),
            "reason = ?": None if wanted.reason is None else str(wanted.reason),
            "at >= ?": None if wanted.since is None else to_micros(wanted.since),
            "at < ?": None if wanted.until is None else to_micros(wanted.until),
        }
        asked = {text: value for text, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(asked)}" if asked else ""
        few = _FEW if wanted.id is not None or wanted.recipients else ""
        query = _FIND.format(where=where, few=few, limit=limit)
        async with self._tables.reading() as session:
            found = await session.fetch_all(query, *asked.values())
        return [record_of(IndexRow, row) for row in found]

    async def prune(self, before: datetime, *, journals_before: datetime) -> int:
        """Forget older rows; return how many.

        Also forgets erasures much older than the oldest journals, which begin at `journals_before`.
        """
        removed, start = 0, _FIRST
        while True:
            async with self._tables.writing() as session:
                ((some, last),) = await session.fetch_all(_OLD, start, to_micros(before), _AT_ONCE)
            removed += int(some)
            if some < _AT_ONCE:
                break
            start = last
        async with self._tables.writing() as session:
            await session.run(_OLD_ERASURES, to_micros(journals_before - _LONGER))
        return removed


def _written(row: IndexRow, key: PersonKey) -> Row:
    person = None if row.canonical is None else key(row.canonical)
    return (*row_of(astuple(row)[:-2]), person)


_ASK = """
INSERT INTO asked_message (id, at)
SELECT id, ?2 FROM unnest(?1::text[]) AS wanted (id) ORDER BY id ON CONFLICT DO NOTHING
"""
_ANSWERS = "SELECT id, answer FROM asked_message WHERE id = ANY (?) AND answer IS NOT NULL"
# OFFSET 0 makes the planner look the few wanted messages up by id. A plan made while there were few
# decisions would otherwise read all of them, every second.
ASKED = """
SELECT DISTINCT id FROM (SELECT id FROM asked_message WHERE answered_at IS NULL OFFSET 0) AS wanted
CROSS JOIN LATERAL (SELECT relay FROM decision WHERE decision.id = wanted.id OFFSET 0) AS known
WHERE known.relay = ? ORDER BY id LIMIT ?
"""
_ANSWER = """
UPDATE asked_message SET answer = ?, relay = ?, answered_at = ?
WHERE id = ? AND answered_at IS NULL
"""
_USED = "DELETE FROM asked_message WHERE id = ANY (?)"
_OLD_QUESTIONS = "DELETE FROM asked_message WHERE at < ? OR answered_at < ?"


class AskedMessages(SideTable):
    """Questions between relays about messages, by decision id. Methods raise StoreUnavailable.

    A question lost in a crash is asked again.
    """

    async def ask(self, ids: Collection[str], at: datetime) -> Mapping[str, SentMessage]:
        """Ask for the records of messages; may be repeated. Returns those answered so far."""
        wanted = list(ids)
        async with self._tables.writing() as session:
            await session.run(_ASK, wanted, to_micros(at))
            found = await session.fetch_all(_ANSWERS, wanted)
        return {id: msgspec.json.decode(answer, type=SentMessage) for id, answer in found}

    async def asked(self, relay: str, limit: int) -> Sequence[str]:
        """Return the unanswered questions about messages that, by the index, this relay has."""
        async with self._tables.reading() as session:
            return [id for (id,) in await session.fetch_all(ASKED, relay, limit)]

    async def answer(
        self, relay: str, messages: Mapping[str, SentMessage | None], at: datetime
    ) -> None:
        """Answer from this relay's journal; None if a record is no longer there."""
        async with self._tables.writing() as session:
            for id, message in sorted(messages.items()):
                text = None if message is None else msgspec.json.encode(message).decode()
                await session.run(_ANSWER, text, relay, to_micros(at), id)

    async def used(self, ids: Collection[str]) -> None:
        """Remove these questions and their answers."""
        async with self._tables.writing() as session:
            await session.run(_USED, list(ids))

    async def forget(self, now: datetime) -> None:
        """Remove questions and answers that are too old."""
        async with self._tables.writing() as session:
            await session.run(
                _OLD_QUESTIONS, to_micros(now - ASKED_FOR), to_micros(now - ANSWERED_FOR)
            )
