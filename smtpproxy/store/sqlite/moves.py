"""What `store copy` makes in the files of a store, and the lock of whoever moves or changes one."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smtpproxy.store.protocols import StoreUnavailable

STATE = "store_copy"
"""The table that says of which copy a file is the source, or half."""
CLOSING = "closed_"
"""How the triggers are called that refuse what is written."""
NOTING = "copying_"
"""And those that put it on record, with its tables."""

_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def triggers(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL of each trigger."""
    return dict(connection.execute(_TRIGGERS).fetchall())


def tables(connection: sqlite3.Connection) -> list[str]:
    """Return the tables of the store itself."""
    found = [name for (name,) in connection.execute(_TABLES).fetchall()]
    return [name for name in found if not _is_of_a_copy(name)]


def _is_of_a_copy(table: str) -> bool:
    return table.startswith(NOTING) or table == STATE


def drop_triggers(connection: sqlite3.Connection, beginning: str) -> bool:
    """Tell whether there were any."""
    found = [name for name in triggers(connection) if name.startswith(beginning)]
    for name in found:
        connection.execute(f'DROP TRIGGER "{name}"')
    return bool(found)


def forget_changes(connection: sqlite3.Connection) -> bool:
    """Put changes on record no more; tell whether anything was left of a copy."""
    left = drop_triggers(connection, NOTING)
    for (table,) in connection.execute(_TABLES).fetchall():
        if _is_of_a_copy(table):
            connection.execute(f'DROP TABLE "{table}"')
            left = True
    return left


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let nobody else move the store, or change its tables. Raises StoreUnavailable."""
    with _locked(path, fcntl.LOCK_EX, "wait for its end"):
        yield


@contextmanager
def unmoved(path: Path) -> Iterator[None]:
    """Let nobody move the store while its tables are changed. Raises StoreUnavailable."""
    with _locked(path, fcntl.LOCK_SH, "its tables are brought up to date after that, not before"):
        yield


@contextmanager
def _locked(path: Path, kind: int, advice: str) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, kind | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreUnavailable(
            f"{path}: a store copy, store reopen or migration of it is under way; {advice}"
        ) from None
    finally:
        os.close(folder)
