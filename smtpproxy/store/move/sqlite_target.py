"""A store in SQLite that is filled: files in a folder beside, which get their names at the end."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

from smtpproxy.disk import sync_folder
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Mark
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reached
from smtpproxy.store.move.reading import listed, places
from smtpproxy.store.move.sqlite_files import Files, noted, open_part, part_path, told, triggers
from smtpproxy.store.move.tables import MADE_WITH_A_STORE, PARTS, STORE, Key
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import migrate

_STATE = f"CREATE TABLE {state.STATE} (name TEXT PRIMARY KEY, value BLOB)"
_SPOILT = Begun("", "another store")
_NOTE = f"INSERT OR REPLACE INTO {state.STATE} VALUES (?, ?)"


class SqliteTarget(Files):
    """A `Target`. Its triggers come with the end: what rows cause is copied with them."""

    def __init__(self, folder: Path, path: Path, mark: Mark) -> None:
        self._folder = folder
        self._path = path
        self._mark = mark
        self._is_new = not (folder / path.name).exists()
        super().__init__(self._opened())

    def _opened(self) -> Mapping[str, sqlite3.Connection]:
        store = self._folder / self._path.name
        if not store.exists():
            os.close(os.open(store, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connections: dict[str, sqlite3.Connection] = {}
        try:
            for part in PARTS:
                connections[part] = open_part(store, part)
            migrate(connections[STORE], store, lambda _: None)
            for name in triggers(connections[STORE]):
                connections[STORE].execute(f'DROP TRIGGER "{name}"')
        except BaseException:
            _close(connections)
            raise
        return connections

    def shut(self) -> None:
        """Close the files; where nothing was begun, they go."""
        nothing = not self._folder.exists() or self._is_new
        _close(self._connections)
        if nothing:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def begun(self) -> Begun | None:
        """Return None where it was not there before."""
        if self._is_new:
            return None
        with told():
            found = {state.begun(noted(connection)) for connection in self._connections.values()}
        begun = found.pop() if len(found) == 1 else None
        return begun or _SPOILT  # such as where a copy was killed at its very end

    async def has_rows(self, table: str) -> bool:
        return bool(await self.fetch(table, f'SELECT 1 FROM "{table}" LIMIT 1'))

    async def begin(self, copy: Begun) -> None:
        _close(self._connections)
        for file in self._folder.iterdir():
            file.unlink()
        self._is_new = False
        with told():
            self._connections = self._opened()
            for part, connection in self._connections.items():
                connection.execute("BEGIN")
                for table in MADE_WITH_A_STORE & PARTS[part].keys():
                    connection.execute(f'DELETE FROM "{table}"')
                connection.execute(_STATE)
                connection.execute(_NOTE, (state.NAME, state.encode(copy)))
                connection.execute("COMMIT")

    async def spoil(self) -> None:
        with told():
            row = (state.NAME, state.encode(_SPOILT))
            self._connections[STORE].execute(_NOTE, row)

    async def reached(self, table: str) -> Reached:
        return state.reached(noted(self._of(table)), table)

    async def reach(self, table: str, reached: Reached) -> None:
        self._of(table).execute(_NOTE, (table, state.encode(reached)))

    @asynccontextmanager
    async def step(self, table: str, *, flushed: bool) -> AsyncIterator[None]:
        connection = self._of(table)
        with told():
            connection.execute(f"PRAGMA synchronous = {'FULL' if flushed else 'NORMAL'}")
            connection.execute("BEGIN")
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    async def write(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self._of(table).executemany(
            f'INSERT INTO "{table}" ({listed(columns)}) VALUES ({places(columns)})', rows
        )

    async def find(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        return self._each(f'SELECT {listed(columns)} FROM "{table}"', table, by, keys)

    async def remove(
        self, table: str, columns: Sequence[str], by: Sequence[str], keys: Sequence[Key]
    ) -> list[Row]:
        found = self._each(f'SELECT {listed(columns)} FROM "{table}"', table, by, keys)
        self._each(f'DELETE FROM "{table}"', table, by, keys)
        return found

    def _each(self, sql: str, table: str, by: Sequence[str], keys: Sequence[Key]) -> list[Row]:
        where = " AND ".join(f'"{column}" = ?' for column in by)
        connection = self._of(table)
        return [row for key in keys for row in connection.execute(f"{sql} WHERE {where}", key)]

    async def settle(self) -> None:
        with told():
            for connection in self._connections.values():
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        _refuse_made(self._path)  # by a relay that was started there too soon
        store = self._connections[STORE]
        change, refusal = self._mark
        # The journal of changes in state_dir may know numbers that must not be given again.
        given = {**numbers, "refusal_change": refusal}
        given["suppression_change"] = max(change, given["suppression_change"])
        with told():
            store.execute("BEGIN")
            store.execute("DELETE FROM sqlite_sequence")
            store.executemany(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", given.items()
            )
            for trigger in _all_triggers():
                store.execute(trigger)
            live_keys.name(store)
            store.execute("COMMIT")
            for part, octets in secrets.items():
                self._connections[part].execute("UPDATE secret SET octets = ?", (octets,))
            for connection in self._connections.values():
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def commit(self) -> None:
        with told():
            for connection in self._connections.values():
                connection.execute(f"DROP TABLE {state.STATE}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            for part in sorted(self._connections, reverse=True):  # the store itself is the last
                made = part_path(self._folder / self._path.name, part)
                path = part_path(self._path, part)
                with made.open("rb") as file:
                    os.fsync(file.fileno())
                give_to_owner_of(path.parent, made)
                made.replace(path)
            sync_folder(self._path.parent)
            shutil.rmtree(self._folder, ignore_errors=True)

    async def tidy(self) -> None:
        """There is nothing that could wait."""


def _close(connections: Mapping[str, sqlite3.Connection]) -> None:
    for connection in connections.values():
        connection.close()


def _all_triggers() -> list[str]:
    """Return the SQL of the triggers that a store has."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, Path(":memory:"), lambda _: None)
        return list(triggers(connection).values())


@asynccontextmanager
async def open_target(path: Path, state_dir: Path) -> AsyncIterator[SqliteTarget]:
    """Make a store that takes its place with `commit`, or go on with one. Raises
    StoreMisconfigured."""
    with told(), _aside(path) as folder:
        target = SqliteTarget(folder, path, _journal_mark(state_dir))
        try:
            yield target
        finally:
            target.shut()


def _journal_mark(state_dir: Path) -> Mark:
    try:
        return Journal(state_dir / FOLDER).end()[1]
    except JournalGap as error:
        raise StoreUnavailable(f"the journal of changes is damaged: {error}") from error


def _refuse_made(path: Path) -> None:
    if path.exists():
        raise StoreMisconfigured(
            f"{path}: there is a database already; right would be the name of a new file"
        )


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A private folder beside a file to be, in which it is made."""
    _refuse_made(path)
    folder = path.with_name(f".{path.name}.copy")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnavailable(f"{path}: another copy to it is under way") from None
        yield folder
    finally:
        os.close(lock)
