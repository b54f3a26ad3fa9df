"""The files of a store in SQLite at either end of a copy."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from smtpproxy.store.move.ends import FIND_STATE, STATE
from smtpproxy.store.move.tables import PARTS, STORE
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import check_ours, unavailable, uri
from smtpproxy.store.sqlite.side_file import opened, part_path
from smtpproxy.store.sqlite.side_tables import SIDE_TABLES

_PART = {table: part for part, tables in PARTS.items() for table in tables}
_EXISTS = "SELECT 1 FROM sqlite_master WHERE name = ?"


class Files:
    """The connections of a store, by part."""

    def __init__(self, connections: Mapping[str, sqlite3.Connection]) -> None:
        self._connections = connections

    def _of(self, table: str) -> sqlite3.Connection:
        return self._connections[_PART[table]]

    async def columns(self, table: str) -> Sequence[str]:
        return [row[1] for row in await self.fetch(table, f'PRAGMA table_info("{table}")')]

    async def fetch(self, table: str, sql: str, *values: object) -> list[Row]:
        with store_errors():
            return self._of(table).execute(sql, values).fetchall()

    def shown(self, _table: str, column: str, of: str = "") -> str:
        return f'{of}"{column}"'

    async def live_keys(self) -> Live:
        with store_errors():
            return live_keys.live(self._connections[STORE])


def open_part(path: Path, part: str) -> sqlite3.Connection:
    """Open a file of a store, so that deleted data is overwritten."""
    if part == STORE:
        if not path.exists():
            raise StoreMisconfigured(f"{path}: there is no database; check the file in the URL")
        connection = sqlite3.connect(
            uri(path, read_only=False), uri=True, timeout=0, isolation_level=None
        )
        _check_database(connection, path)
        connection.execute("PRAGMA secure_delete = ON")
    else:
        connection = opened(part_path(path, part), SIDE_TABLES[part], read_only=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _check_database(connection: sqlite3.Connection, path: Path) -> None:
    try:
        check_ours(connection, path)
    except StoreMisconfigured:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_NOTADB:
            raise
        wrong = f"{path}: not an SQLite database; check the file in the URL"
        raise StoreMisconfigured(wrong) from error


def read_state(connection: sqlite3.Connection) -> dict[str, bytes]:
    """Return the rows of the copy's state."""
    if not connection.execute(_EXISTS, (STATE,)).fetchone():
        return {}
    return dict(connection.execute(FIND_STATE).fetchall())


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of SQLite and of the disk as errors of the store."""
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(error) from error
    except OSError as error:
        file = error.filename2 or error.filename or "a file"
        raise StoreUnavailable(f"{file}: {error.strerror}") from error
