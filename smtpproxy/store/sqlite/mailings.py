"""Counting mailings on the mail path of one relay."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.policy.model import Stream
from smtpproxy.store.sql.mailings import Mailed, MailingLog, mailed
from smtpproxy.store.sql.rows import Row, to_micros
from smtpproxy.store.sql.side_tables import person_hash
from smtpproxy.store.sqlite.side_file import SideFile

_KNOWN = """
SELECT person, at, stream, purpose, brand FROM mailing WHERE person = ?1
UNION ALL SELECT person, at, NULL, NULL, NULL FROM first_mailing WHERE person = ?1 ORDER BY at
"""
_COUNT = "INSERT INTO mailing (person, at, id, stream, purpose, brand) VALUES (?, ?, ?, ?, ?, ?)"
_COUNT_FIRST = "INSERT OR IGNORE INTO first_mailing (person, at, id) VALUES (?, ?, ?)"
_IS_COUNTED = "SELECT 1 FROM mailing WHERE person = ? AND id = ?"
_TAKE_BACK = "DELETE FROM mailing WHERE person = ? AND id = ?"
_TAKE_FIRST_BACK = "DELETE FROM first_mailing WHERE person = ? AND id = ?"
_NEXT_IS_FIRST = """
INSERT OR IGNORE INTO first_mailing (person, at, id)
SELECT person, at, id FROM mailing WHERE person = ?1 ORDER BY at LIMIT 1
"""


class Counted(Struct, frozen=True):
    """A message to a person."""

    address: str
    id: str
    stream: Stream
    at: datetime


class SqliteMailings(MailingLog):
    """Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, *, read_only: bool = False) -> None:
        self._file = SideFile(database, "mailings", timeout, read_only=read_only)
        super().__init__(self._file)

    async def reserve(
        self, id: str, stream: Stream, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        moment = to_micros(at)

        def count(connection: sqlite3.Connection) -> dict[str, Mailed]:
            persons = {address: self._person(address) for address in addresses}
            known = _known(connection, persons)
            sent = (moment, id, stream.counted_as, stream.purpose, stream.brand)
            connection.executemany(_COUNT, [(p, *sent) for p in persons.values()])
            connection.executemany(_COUNT_FIRST, [(p, moment, id) for p in persons.values()])
            return known

        return await self._file.write(count)

    async def count_again(self, messages: Iterable[Counted]) -> int:
        """Count the messages that are not counted yet; return how many. Raises StoreUnavailable."""

        def count(connection: sqlite3.Connection) -> int:
            done = 0
            for one in messages:
                person, moment, stream = self._person(one.address), to_micros(one.at), one.stream
                if connection.execute(_IS_COUNTED, (person, one.id)).fetchone():
                    continue
                sent = (stream.counted_as, stream.purpose, stream.brand)
                connection.execute(_COUNT, (person, moment, one.id, *sent))
                connection.execute(_COUNT_FIRST, (person, moment, one.id))
                done += 1
            return done

        return await self._file.write(count)

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        def take_back(connection: sqlite3.Connection) -> None:
            for person in map(self._person, addresses):
                connection.execute(_TAKE_BACK, (person, id))
                if connection.execute(_TAKE_FIRST_BACK, (person, id)).rowcount:
                    connection.execute(_NEXT_IS_FIRST, (person,))

        await self._file.write(take_back)

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return the mailings of each address, or nothing if there is no database yet."""
        if not self._file.exist():
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, Mailed]:
            return _known(connection, {address: self._person(address) for address in addresses})

        return await self._file.ask(read)

    def _person(self, address: str) -> bytes:
        return person_hash(address, self._file.secret)


def _known(connection: sqlite3.Connection, persons: Mapping[str, bytes]) -> dict[str, Mailed]:
    found: list[Row] = []
    for person in persons.values():
        found += connection.execute(_KNOWN, (person,))
    return mailed(persons, found)
