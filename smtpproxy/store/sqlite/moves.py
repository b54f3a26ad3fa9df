"""The tables and triggers of `store copy` in a store's files, and locks against other commands."""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path

from smtpproxy.disk import locked
from smtpproxy.store.records import StoreUnavailable

STATE = "store_copy"
"""The table with the state of the copy that a file is the source, or the target, of."""
CLOSING = "closed_"
"""The prefix of the triggers that refuse writes."""
NOTING = "copying_"
"""The prefix of the triggers that record changes, and of the tables they record them in."""

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
    """Return whether there were any."""
    found = [name for name in triggers(connection) if name.startswith(beginning)]
    for name in found:
        connection.execute(f'DROP TRIGGER "{name}"')
    return bool(found)


def forget_changes(connection: sqlite3.Connection) -> bool:
    """Stop recording changes; return whether anything was left of a copy."""
    left = drop_triggers(connection, NOTING)
    for (table,) in connection.execute(_TABLES).fetchall():
        if _is_of_a_copy(table):
            connection.execute(f'DROP TABLE "{table}"')
            left = True
    return left


def locked_for_move(path: Path) -> AbstractContextManager[None]:
    """Keep others from moving the store or changing its tables. Raises StoreUnavailable."""
    return locked(path.parent, _busy(path, "wait until that has ended"))


def locked_for_migration(path: Path) -> AbstractContextManager[None]:
    """Keep others from moving the store while its tables change. Raises StoreUnavailable."""
    return locked(path.parent, _busy(path, "migrate its tables after that has ended"), shared=True)


def _busy(path: Path, advice: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{path}: store copy, store reopen or migrate is running on it; {advice}"
    )
