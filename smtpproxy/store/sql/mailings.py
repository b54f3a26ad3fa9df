"""What people were mailed, counted on the mail path.

A message is counted before it goes to the upstream, and the count undone if it is not accepted:
so two workers can never both send the last message that a cap allows. After a crash the count
stays, since the message may have been accepted.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Mailing, Stream
from smtpproxy.store.sql.rows import Row, from_micros, to_micros
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.side_tables import AHEAD, SideTable, person_hash

KNOWN = """
SELECT person, at, stream, purpose, brand FROM mailing WHERE person IN ?
UNION ALL SELECT person, at, NULL, NULL, NULL FROM first_mailing WHERE person IN ? ORDER BY at
"""
_COUNT = "INSERT INTO mailing (person, at, id, stream, purpose, brand) VALUES (?, ?, ?, ?, ?, ?)"
_COUNT_FIRST = "INSERT INTO first_mailing (person, at, id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_IS_COUNTED = "SELECT 1 FROM mailing WHERE person = ? AND id = ?"
_TAKE_BACK = "DELETE FROM mailing WHERE person = ? AND id = ?"
_TAKE_FIRST_BACK = "DELETE FROM first_mailing WHERE id = ?1 AND person IN ? RETURNING person"
_NEXT_IS_FIRST = """
INSERT INTO first_mailing (person, at, id)
SELECT person, at, id FROM mailing WHERE person = ? ORDER BY at LIMIT 1 ON CONFLICT DO NOTHING
"""
_OLDER = "SELECT count(*) FROM mailing WHERE at < ?"
_PRUNE = """
DELETE FROM mailing WHERE (person, at, id) IN
    (SELECT person, at, id FROM mailing WHERE at < ? LIMIT ?)
"""
_PRUNE_FIRST = """
DELETE FROM first_mailing WHERE person IN
    (SELECT person FROM first_mailing WHERE at < ? LIMIT ?)
"""
_ONCE = """
DELETE FROM mailing WHERE (person, at, id) IN (
    SELECT person, at, id FROM mailing AS again WHERE at > ?1 AND EXISTS (
        SELECT 1 FROM mailing WHERE person = again.person AND id = again.id AND at < again.at
    ) LIMIT ?2
)
"""
"""A message may be counted twice: if a count was not taken back, or its answer was lost. Dated
alike, both would be the same row."""
_CORRECT = """
UPDATE mailing SET at = ?1 WHERE (person, at, id) IN
    (SELECT person, at, id FROM mailing WHERE at > ?2 LIMIT ?3)
"""
_CORRECT_FIRST = """
UPDATE first_mailing SET at = ?1 WHERE person IN
    (SELECT person FROM first_mailing WHERE at > ?2 LIMIT ?3)
"""
_ARE_AHEAD = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM mailing WHERE at > ?1)
OR EXISTS (SELECT 1 FROM first_mailing WHERE at > ?1)
"""
_FORGET = ("DELETE FROM mailing WHERE person = ?", "DELETE FROM first_mailing WHERE person = ?")


class Counted(Struct, frozen=True):
    """A message to a person."""

    address: str
    id: str
    stream: Stream
    at: datetime


class Mailed(Struct, frozen=True):
    """What a person has been mailed, oldest first."""

    mailings: tuple[Mailing, ...] = ()
    first_at: datetime | None = None


def mailed(persons: Mapping[str, bytes], rows: Iterable[Row]) -> dict[str, Mailed]:
    """Return what each address was mailed, from rows (person, at, stream, purpose, brand) in order
    of time."""
    mailings: dict[bytes, list[Mailing]] = {person: [] for person in persons.values()}
    first: dict[bytes, datetime] = {}
    for person, at, stream, purpose, brand in rows:
        moment = from_micros(at)
        first.setdefault(person, moment)
        if stream is not None:
            mailings[person].append(Mailing(stream, moment, purpose, brand))
    return {
        address: Mailed(tuple(mailings[person]), first.get(person))
        for address, person in persons.items()
    }


class MailingLog(SideTable):
    """Counts mail across workers. Addresses are canonical. Raises StoreUnavailable."""

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what each was mailed before; people without mail may be left out."""
        if not self._tables.exist():
            return {}
        persons = await self._persons(addresses)
        async with self._tables.reading() as session:
            return await self._known(session, persons)

    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        """Count a message before it goes to the upstream; return what was mailed before it.

        Atomic across workers: no other message is counted in between.
        """
        persons = await self._persons(addresses)
        async with self._tables.writing() as session:
            known = await self._known(session, persons)
            await _count(session, persons.values(), id, stream, at)
        return known

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        """Undo the count of a message for people who were not mailed."""
        persons = list((await self._persons(addresses)).values())
        async with self._tables.writing() as session:
            await self._take_turns(session, persons)
            await session.run_many(_TAKE_BACK, [(person, id) for person in persons])
            gone = await self._tables.fetch_in(session, _TAKE_FIRST_BACK, persons, id)
            await session.run_many(_NEXT_IS_FIRST, gone)

    async def count_again(self, messages: Iterable[Counted]) -> int:
        """Count the messages that are not counted yet; return how many."""
        secret, done = await self._tables.hash_key(), 0
        async with self._tables.writing() as session:
            for one in messages:
                person = person_hash(one.address, secret)
                if not await session.fetch_all(_IS_COUNTED, person, one.id):
                    await _count(session, [person], one.id, one.stream, one.at)
                    done += 1
        return done

    async def _take_turns(self, session: Session, persons: Sequence[bytes]) -> None:
        """Wait for others that count for the same people."""

    async def _known(self, session: Session, persons: Mapping[str, bytes]) -> dict[str, Mailed]:
        found = await self._tables.fetch_in(session, KNOWN, list(persons.values()))
        return mailed(persons, found)

    async def _persons(self, addresses: Iterable[str]) -> dict[str, bytes]:
        secret = await self._tables.hash_key()
        return {address: person_hash(address, secret) for address in addresses}

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        """Remove older messages and first messages, in small steps.

        Returns how many messages were removed, or would be.
        """
        if dry_run:
            async with self._tables.reading() as session:
                return int((await session.fetch_all(_OLDER, to_micros(before)))[0][0])
        if not self._tables.exist():
            return 0
        removed = await self._in_steps(_PRUNE, before)
        await self._in_steps(_PRUNE_FIRST, first_before)
        return removed

    async def correct(self, now: datetime) -> None:
        """Move what was counted while a clock was ahead to the present: it would count until then.

        `now` is from a clock that is right.
        """
        if not self._tables.exist():
            return
        latest = now + AHEAD
        async with self._tables.reading() as session:  # the search would hold up writers
            if not await session.fetch_all(_ARE_AHEAD, to_micros(latest)):
                return
        await self._in_steps(_ONCE, latest)
        for statement in (_CORRECT, _CORRECT_FIRST):
            await self._in_steps(statement, now, latest)

    async def forget(self, address: str) -> None:
        """Erase a person."""
        if self._tables.exist():
            person = person_hash(address, await self._tables.hash_key())
            async with self._tables.writing() as session:
                for statement in _FORGET:
                    await session.run(statement, person)
            await self._tables.purge_log()


async def _count(
    session: Session, persons: Iterable[bytes], id: str, stream: Stream, at: datetime
) -> None:
    sent = (to_micros(at), id)
    told = (stream.counted_as, stream.purpose, stream.brand)
    await session.run_many(_COUNT, [(person, *sent, *told) for person in persons])
    await session.run_many(_COUNT_FIRST, [(person, *sent) for person in persons])


def with_mailings(facts: Facts, mailed: Mapping[str, Mailed]) -> Facts:
    """Return `facts` with their mailings replaced."""
    changed = {
        address: replace(
            facts.get(address, NO_FACTS), mailings=known.mailings, first_mailed_at=known.first_at
        )
        for address, known in mailed.items()
    }
    return {**facts, **changed}
