"""What people were mailed, counted on the mail path.

A message is counted before it goes to the upstream, and the count undone if it is not accepted:
so two workers can never both send the last message that a cap allows. After a crash the count
stays, since the message may have been accepted.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Mailing, Stream
from smtpproxy.store.sql.rows import Row, from_micros, to_micros
from smtpproxy.store.sql.side_tables import AHEAD, SideTable, person_hash

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
"""A message may be counted twice: where a count was not taken back, or its answer was lost. With
the same date, both would be the same row."""
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

    @abstractmethod
    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what each was mailed before; people without mail may be left out."""

    @abstractmethod
    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        """Count a message before it goes to the upstream; return what was mailed before it.

        Atomic across workers: no other message is counted in between.
        """

    @abstractmethod
    async def release(self, id: str, addresses: Iterable[str]) -> None:
        """Undo the count of a message for people who were not mailed."""

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
        """Date as of now what was counted while a clock was ahead, which would count until then.

        `now` is by a clock that is right.
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


def with_mailings(facts: Facts, mailed: Mapping[str, Mailed]) -> Facts:
    """Return `facts` with their mailings replaced."""
    changed = {
        address: replace(
            facts.get(address, NO_FACTS), mailings=known.mailings, first_mailed_at=known.first_at
        )
        for address, known in mailed.items()
    }
    return {**facts, **changed}
