"""How many confirmation mails were asked for lately: nobody may have others mailed at will."""

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    COUNT_CONFIRMATION,
    GIVE_CONFIRMATION_BACK,
    PRUNE_CONFIRMATIONS,
    mailbox_hash,
)
from smtpproxy.store.sqlite.side_file import SideFile

# Times are microseconds since 1970 in UTC; a person is a keyed hash of the widened address.
TABLES = """
CREATE TABLE confirmation (
    person BLOB NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX confirmation_person ON confirmation (person);
"""
_OF_PERSON = "SELECT count(*) FROM confirmation WHERE person = ?"
_OF_ALL = "SELECT count(*) FROM confirmation"
_DAY = timedelta(days=1)


class SqliteConfirmations:
    """A `ConfirmationLimit`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float) -> None:
        path = database.with_name(f"{database.stem}-confirmations.db")
        self._file = SideFile(path, TABLES, timeout)

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        def take(connection: sqlite3.Connection) -> bool:
            person = self._person(address)
            connection.execute(PRUNE_CONFIRMATIONS, (to_micros(at - _DAY),))
            (of_person,) = connection.execute(_OF_PERSON, (person,)).fetchone()
            (of_all,) = connection.execute(_OF_ALL).fetchone()
            if of_person >= per_address or of_all >= per_day:
                return False
            connection.execute(COUNT_CONFIRMATION, (person, to_micros(at)))
            return True

        return await self._file.write(take)

    async def give_back(self, address: str, at: datetime) -> None:
        def give_back(connection: sqlite3.Connection) -> None:
            connection.execute(GIVE_CONFIRMATION_BACK, (self._person(address), to_micros(at)))

        await self._file.write(give_back)

    def _person(self, address: str) -> bytes:
        return mailbox_hash(address, self._file.secret)

    def close(self) -> None:
        self._file.close()
