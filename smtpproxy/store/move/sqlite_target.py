"""A store in SQLite that is filled: files in a folder beside, which get their names at the end."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

from smtpproxy.disk import sync_folder
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Mark
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.move import state
from smtpproxy.store.move.ends import Begun, Reached
from smtpproxy.store.move.reading import listed, places
from smtpproxy.store.move.sqlite_files import Files, noted, open_part, part_path, told
from smtpproxy.store.move.tables import MADE_WITH_A_STORE, PARTS, STORE, Key
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import migrate
from smtpproxy.store.sqlite.moves import triggers

_STATE = f"{state.STATE} (name TEXT PRIMARY KEY, value BLOB)"
_SPOILT = Begun("", "another store")
_NOTE = f"INSERT OR REPLACE INTO {state.STATE} VALUES (?, ?)"
_WHOLE = "whole"
"""A file in the folder: what is there is all of the copy, and has yet to be given its names."""
_ENDS = ("", "-wal", "-shm", "-journal")
"""Of the names of files of SQLite: it would take what is there for its own."""


class SqliteTarget(Files):
    """A `Target`. Its triggers come with the end: what rows cause is copied with them."""

    def __init__(self, folder: Path, path: Path, mark: Mark) -> None:
        self._folder = folder
        self._path = path
        self._mark = mark
        self._is_new = not (folder / path.name).exists()
        self._seen: Mapping[str, int] = {}
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
        if self._whole.exists():
            return state.decode(self._whole.read_bytes())
        with told():
            found = {state.begun(noted(connection)) for connection in self._connections.values()}
        begun = found.pop() if len(found) == 1 else None
        return begun or _SPOILT  # such as where it was killed while it was begun

    @property
    def _whole(self) -> Path:
        return self._folder / _WHOLE

    async def has_rows(self, table: str) -> bool:
        return bool(await self.fetch(table, f'SELECT 1 FROM "{table}" LIMIT 1'))

    async def begin(self, copy: Begun) -> None:
        _close(self._connections)
        self._is_new = False
        with told():
            self._whole.unlink(missing_ok=True)
            for part in PARTS:
                made, path = self._places(part)
                if _is_same(made, path):  # the name that an end gave it which was not reached
                    path.unlink()
            for file in self._folder.iterdir():
                file.unlink()
            self._try_names()
            self._connections = self._opened()
            for part, connection in self._connections.items():
                connection.execute("BEGIN")
                for table in MADE_WITH_A_STORE & PARTS[part].keys():
                    connection.execute(f'DELETE FROM "{table}"')
                connection.execute(f"CREATE TABLE {_STATE}")
                connection.execute(_NOTE, (state.NAME, state.encode(copy)))
                connection.execute("COMMIT")

    def _try_names(self) -> None:
        """Do now what must not fail at the end."""
        one, other = self._folder / ".one", self._folder / ".other"
        one.touch()
        other.hardlink_to(one)
        for file in (one, other):
            file.unlink()

    async def spoil(self) -> None:
        with told():
            self._whole.unlink(missing_ok=True)
            store = self._connections[STORE]
            store.execute(f"CREATE TABLE IF NOT EXISTS {_STATE}")
            store.execute(_NOTE, (state.NAME, state.encode(_SPOILT)))

    async def reached(self, table: str) -> Reached:
        if self._whole.exists():
            return Reached(all=True)
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

    async def watch(self) -> None:
        with told():
            self._seen = self._commits_of_others()

    def _commits_of_others(self) -> dict[str, int]:
        """Return what is another number once anybody else has committed, by part."""
        return {
            part: connection.execute("PRAGMA data_version").fetchone()[0]
            for part, connection in self._connections.items()
        }

    async def hold(self) -> None:
        """Nobody knows of it yet."""

    async def leave(self) -> None:
        """Nothing is held."""

    async def is_ours(self) -> bool:
        with told():
            return self._commits_of_others() == self._seen

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        _refuse_made(self._folder, self._path)  # by a relay that was started there too soon
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
            for part, connection in self._connections.items():
                _empty_log(connection, self._places(part)[0])

    async def commit(self) -> None:
        """Give the files their names, never over what was put there meanwhile. The store itself is
        the last, once the others have theirs on the disk: all of them count with it, and until then
        they are in the folder as well."""
        with told():
            written = self._folder / f".{_WHOLE}"
            written.write_bytes(state.encode(await self.begun()))
            _flush(written)
            written.rename(self._whole)
            sync_folder(self._folder)
            for part in sorted(self._connections, reverse=True):
                connection = self._connections[part]
                made, path = self._places(part)
                connection.execute(f"DROP TABLE IF EXISTS {state.STATE}")
                _empty_log(connection, made)
                connection.close()
                _flush(made)
                give_to_owner_of(path.parent, made)
                if part == STORE:
                    sync_folder(path.parent)
                    _refuse_made(self._folder, self._path)
                _name(made, path)
            sync_folder(self._path.parent)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _places(self, part: str) -> tuple[Path, Path]:
        """Return where a file is made, and where it will be."""
        return part_path(self._folder / self._path.name, part), part_path(self._path, part)

    async def tidy(self) -> None:
        """There is nothing that could wait."""


def _empty_log(connection: sqlite3.Connection, file: Path) -> None:
    """Have all of a database in its file. Raises StoreUnavailable."""
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StoreUnavailable(f"{file}: another process reads it, which has to end first")


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _name(made: Path, path: Path) -> None:
    """Raises StoreMisconfigured where somebody else's is there."""
    try:
        path.hardlink_to(made)
    except FileExistsError:
        if not _is_same(made, path):
            raise _there(path) from None


def _is_same(made: Path, path: Path) -> bool:
    return made.exists() and path.exists() and made.samefile(path)


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


def _refuse_made(folder: Path, path: Path) -> None:
    """Raise StoreMisconfigured where anything has the name of a file that is to be."""
    for part in sorted(PARTS):
        made, file = part_path(folder / path.name, part), part_path(path, part)
        for end in _ENDS:
            there = file.with_name(f"{file.name}{end}")
            if os.path.lexists(there) and (end or not _is_same(made, there)):
                raise _there(there)


def _there(path: Path) -> StoreMisconfigured:
    return StoreMisconfigured(
        f"{path}: there is a database already; right would be the name of a new file, or to move "
        "away what is there"
    )


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A private folder beside a file to be, in which it is made."""
    folder = path.with_name(f".{path.name}.copy")
    if not folder.exists():
        _refuse_made(folder, path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreUnavailable(f"{path}: another copy to it is under way") from None
        if not (folder / path.name).exists() or _has_two_names(folder / path.name):
            for file in folder.iterdir():  # of a copy that was killed when it counted already
                file.unlink()
        try:
            _refuse_made(folder, path)
        except StoreMisconfigured:
            with suppress(OSError):
                folder.rmdir()  # where there is no half of a copy in it
            raise
        yield folder
    finally:
        os.close(lock)


def _has_two_names(file: Path) -> bool:
    return file.exists() and file.stat().st_nlink > 1
