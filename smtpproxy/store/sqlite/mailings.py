"""Who was mailed when: counted on the mail path, across workers, in a database of its own.

A message is counted before it is put to the upstream and taken back if it is not taken:
then two workers can never both send the last one that a cap allows. What a crash leaves
behind counts, since the message may have been accepted.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from smtpproxy.policy.model import Mailing
from smtpproxy.store.mailings import Mailed
from smtpproxy.store.sqlite.rows import from_micros, to_micros
from smtpproxy.store.sqlite.side_file import SideFile

_KNOWN = """
SELECT at, stream FROM mailing WHERE person = ?1
UNION ALL SELECT at, NULL FROM first_mailing WHERE person = ?1 ORDER BY at
"""
_COUNT = "INSERT INTO mailing (person, at, id, stream) VALUES (?, ?, ?, ?)"
_COUNT_FIRST = "INSERT OR IGNORE INTO first_mailing (person, at, id) VALUES (?, ?, ?)"
_TAKE_BACK = "DELETE FROM mailing WHERE person = ? AND id = ?"
_TAKE_FIRST_BACK = "DELETE FROM first_mailing WHERE person = ? AND id = ?"
_NEXT_IS_FIRST = """
INSERT OR IGNORE INTO first_mailing (person, at, id)
SELECT person, at, id FROM mailing WHERE person = ?1 ORDER BY at LIMIT 1
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
_FORGET = ("DELETE FROM mailing WHERE person = ?", "DELETE FROM first_mailing WHERE person = ?")
_PRUNED_AT_ONCE = 5_000  # rows: other writers wait no longer than for these


class SqliteMailings:
    """A `MailingLog`, and the reading of it. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, *, read_only: bool = False) -> None:
        path = database.with_name(f"{database.stem}-mailings.db")
        self._file = SideFile(path, "mailings.sql", timeout, read_only=read_only)

    async def reserve(
        self, id: str, stream: str, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        moment = to_micros(at)

        def count(connection: sqlite3.Connection) -> dict[str, Mailed]:
            persons = {address: self._person(address) for address in addresses}
            known = {address: _known(connection, person) for address, person in persons.items()}
            connection.executemany(_COUNT, [(p, moment, id, stream) for p in persons.values()])
            connection.executemany(_COUNT_FIRST, [(p, moment, id) for p in persons.values()])
            return known

        return await self._file.write(count)

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        def take_back(connection: sqlite3.Connection) -> None:
            for person in map(self._person, addresses):
                connection.execute(_TAKE_BACK, (person, id))
                if connection.execute(_TAKE_FIRST_BACK, (person, id)).rowcount:
                    connection.execute(_NEXT_IS_FIRST, (person,))

        await self._file.write(take_back)

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        """Return what is known of each address; nothing where there is no database yet."""
        if not self._file.is_there():
            return {}

        def read(connection: sqlite3.Connection) -> dict[str, Mailed]:
            return {address: _known(connection, self._person(address)) for address in addresses}

        return await self._file.ask(read)

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        """Remove what is older, in small steps; return how many messages."""
        if not self._file.is_there():
            return 0
        if dry_run:
            return await self._file.ask(_counted(_OLDER, (to_micros(before),)))
        removed = 0
        for statement, moment in ((_PRUNE, before), (_PRUNE_FIRST, first_before)):
            values = (to_micros(moment), _PRUNED_AT_ONCE)
            while some := await self._file.write(_changed(statement, values)):
                removed += some if statement is _PRUNE else 0
        return removed

    async def forget(self, address: str) -> None:
        """Erase a person."""

        def erase(connection: sqlite3.Connection) -> None:
            for statement in _FORGET:
                connection.execute(statement, (self._person(address),))

        if self._file.is_there():
            await self._file.write(erase)

    def close(self) -> None:
        self._file.close()

    def _person(self, address: str) -> bytes:
        return blake2b(address.encode(), digest_size=16, key=self._file.secret).digest()


def _known(connection: sqlite3.Connection, person: bytes) -> Mailed:
    found = connection.execute(_KNOWN, (person,)).fetchall()
    if not found:
        return Mailed()
    return Mailed(
        tuple([Mailing(stream, from_micros(at)) for at, stream in found if stream is not None]),
        from_micros(found[0][0]),
    )


def _changed(statement: str, values: tuple[object, ...]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute(statement, values).rowcount


def _counted(query: str, values: tuple[object, ...]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute(query, values).fetchone()[0])
