"""A store in SQLite as the target of a copy: made in a work folder, then linked into place."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

from smtpproxy.disk import exists, give_to_owner_of, locked, sync_path
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Mark
from smtpproxy.store.move.ends import (
    COPY_ROW,
    STATE,
    Progress,
    RunningCopy,
    copy_of,
    decode_copy,
    encode,
    progress_of,
)
from smtpproxy.store.move.reading import listed, places
from smtpproxy.store.move.sqlite import Files, open_part, read_state, store_errors
from smtpproxy.store.move.tables import MADE_WITH_A_STORE, PARTS, STORE, Key
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.connection import migrate
from smtpproxy.store.sqlite.moves import triggers
from smtpproxy.store.sqlite.side_file import part_path

_STATE = f"{STATE} (name TEXT PRIMARY KEY, value BLOB)"
_INVALID = RunningCopy("", "another store")
_PUT_STATE = f"INSERT OR REPLACE INTO {STATE} VALUES (?, ?)"
_WHOLE = "whole"
"""A file in the work folder: the copy there is complete, and is being linked into place."""
_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the files of a database: SQLite would take any leftover as its own."""


class SqliteTarget(Files):
    """A `Target`. It gets its triggers at the end, as their effects are copied as rows."""

    def __init__(self, folder: Path, path: Path, mark: Mark) -> None:
        self._folder = folder
        self._path = path
        self._mark = mark
        self._is_new = not exists(folder / path.name)
        self._seen: Mapping[str, int] = {}
        super().__init__(self._opened())

    def _opened(self) -> Mapping[str, sqlite3.Connection]:
        store = self._folder / self._path.name
        if not exists(store):
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
        """Close the files, and delete them if no copy was started."""
        unused = not exists(self._folder) or self._is_new
        _close(self._connections)
        if unused:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def running_copy(self) -> RunningCopy | None:
        """Return None if it did not exist before."""
        if self._is_new:
            return None
        if exists(self._whole):
            return decode_copy(self._whole.read_bytes())
        with store_errors():
            found = {copy_of(read_state(connection)) for connection in self._connections.values()}
        copy = found.pop() if len(found) == 1 else None
        return copy or _INVALID  # killed in `begin`, for example

    @property
    def _whole(self) -> Path:
        return self._folder / _WHOLE

    async def has_rows(self, table: str) -> bool:
        return bool(await self.fetch(table, f'SELECT 1 FROM "{table}" LIMIT 1'))

    async def begin(self, copy: RunningCopy) -> None:
        _close(self._connections)
        self._is_new = False
        with store_errors():
            self._whole.unlink(missing_ok=True)
            for part in PARTS:
                made, path = self._places(part)
                if _is_same(made, path):  # linked by a `commit` that was killed
                    path.unlink()
            for file in self._folder.iterdir():
                file.unlink()
            self._try_hard_links()
            self._connections = self._opened()
            for part, connection in self._connections.items():
                connection.execute("BEGIN")
                for table in MADE_WITH_A_STORE & PARTS[part].keys():
                    connection.execute(f'DELETE FROM "{table}"')
                connection.execute(f"CREATE TABLE {_STATE}")
                connection.execute(_PUT_STATE, (COPY_ROW, encode(copy)))
                connection.execute("COMMIT")

    def _try_hard_links(self) -> None:
        """Fail now rather than in `commit` if the file system has no hard links."""
        one, other = self._folder / ".one", self._folder / ".other"
        one.touch()
        other.hardlink_to(one)
        for file in (one, other):
            file.unlink()

    async def invalidate(self) -> None:
        with store_errors():
            self._whole.unlink(missing_ok=True)
            store = self._connections[STORE]
            store.execute(f"CREATE TABLE IF NOT EXISTS {_STATE}")
            store.execute(_PUT_STATE, (COPY_ROW, encode(_INVALID)))

    async def progress(self, table: str) -> Progress:
        if exists(self._whole):
            return Progress(all=True)
        return progress_of(read_state(self._of(table)), table)

    async def set_progress(self, table: str, progress: Progress) -> None:
        self._of(table).execute(_PUT_STATE, (table, encode(progress)))

    @asynccontextmanager
    async def transaction(self, table: str, *, flushed: bool) -> AsyncIterator[None]:
        connection = self._of(table)
        with store_errors():
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

    async def optimize(self) -> None:
        with store_errors():
            for connection in self._connections.values():
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def watch(self) -> None:
        with store_errors():
            self._seen = self._commits_of_others()

    def _commits_of_others(self) -> dict[str, int]:
        """Return a number that changes with each commit by another connection, by part."""
        return {
            part: connection.execute("PRAGMA data_version").fetchone()[0]
            for part, connection in self._connections.items()
        }

    async def lock(self) -> None:
        """Nobody knows of it yet."""

    async def rollback(self) -> None:
        """Nothing is locked, and `finish` can be repeated."""

    async def is_untouched(self) -> bool:
        with store_errors():
            return self._commits_of_others() == self._seen

    async def finish(self, numbers: Mapping[str, int], secrets: Mapping[str, bytes]) -> None:
        _refuse_existing(self._folder, self._path)  # a relay may have been started there too soon
        store = self._connections[STORE]
        change, refusal = self._mark
        # Numbers in the journal of changes in state_dir must not be assigned again.
        newest = {**numbers, "refusal_change": refusal}
        newest["suppression_change"] = max(change, newest["suppression_change"])
        with store_errors():
            store.execute("BEGIN")
            store.execute("DELETE FROM sqlite_sequence")
            store.executemany(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", newest.items()
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
        """Link the files into place, but never replace an existing one.

        The store itself comes last, once the others are on disk in their places: it is what makes
        the copy valid. Until then all of them are in the work folder as well.
        """
        with store_errors():
            written = self._folder / f".{_WHOLE}"
            written.write_bytes(encode(await self.running_copy()))
            sync_path(written)
            written.rename(self._whole)
            sync_path(self._folder)
            for part in sorted(self._connections, reverse=True):
                connection = self._connections[part]
                made, path = self._places(part)
                connection.execute(f"DROP TABLE IF EXISTS {STATE}")
                _empty_log(connection, made)
                connection.close()
                sync_path(made)
                give_to_owner_of(path.parent, made)
                if part == STORE:
                    sync_path(path.parent)
                    _refuse_existing(self._folder, self._path)
                _link(made, path)
            sync_path(self._path.parent)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _places(self, part: str) -> tuple[Path, Path]:
        """Return a file in the work folder, and its final place."""
        return part_path(self._folder / self._path.name, part), part_path(self._path, part)

    async def tidy(self) -> None:
        """`commit` leaves nothing behind."""


def _empty_log(connection: sqlite3.Connection, file: Path) -> None:
    """Move all of the write-ahead log to the database file. Raises StoreUnavailable."""
    is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StoreUnavailable(f"{file}: another process is reading it; end that one first")


def _link(made: Path, path: Path) -> None:
    """Raises StoreMisconfigured if another file is there."""
    try:
        path.hardlink_to(made)
    except FileExistsError:
        if not _is_same(made, path):
            raise _exists(path) from None


def _is_same(made: Path, path: Path) -> bool:
    return exists(made) and exists(path) and made.samefile(path)


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
    """Create a store that takes its place with `commit`, or resume filling one. Raises
    StoreMisconfigured."""
    with store_errors(), _work_folder(path) as folder:
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


def _refuse_existing(folder: Path, path: Path) -> None:
    """Raise StoreMisconfigured if anything has the name of a file of the store."""
    for part in sorted(PARTS):
        made, file = part_path(folder / path.name, part), part_path(path, part)
        for suffix in _SUFFIXES:
            existing = file.with_name(f"{file.name}{suffix}")
            if os.path.lexists(existing) and (suffix or not _is_same(made, existing)):
                raise _exists(existing)


def _exists(path: Path) -> StoreMisconfigured:
    return StoreMisconfigured(
        f"{path}: there is already a database; name a new file, or move this one away"
    )


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """Lock the private folder, beside the final place of the store, that it is filled in."""
    folder = path.with_name(f".{path.name}.copy")
    if not exists(folder):
        _refuse_existing(folder, path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder, StoreUnavailable(f"{path}: another copy to it is running")):
        store = folder / path.name
        if not exists(store) or store.stat().st_nlink > 1:
            for file in folder.iterdir():  # left by a copy that was killed after it was valid
                file.unlink()
        try:
            _refuse_existing(folder, path)
        except StoreMisconfigured:
            with suppress(OSError):
                folder.rmdir()  # unless it holds an unfinished copy
            raise
        yield folder
