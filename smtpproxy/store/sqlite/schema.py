"""Numbered migrations: `user_version` counts those that a database has had."""

import re
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from smtpproxy.store.protocols import StoreMisconfigured, StoreOutdated
from smtpproxy.store.sqlite import live_keys

_NAME = re.compile(r"(\d{4})_\w+\.sql")


def migrations() -> list[str]:
    """Return the SQL of every migration, the first one first."""
    folder = files("smtpproxy.store.sqlite").joinpath("migrations")
    found = {
        int(match[1]): file.read_text("utf-8")
        for file in folder.iterdir()
        if (match := _NAME.fullmatch(file.name))
    }
    if sorted(found) != list(range(1, len(found) + 1)):
        raise StoreMisconfigured("the program is incomplete: install it again (migrations)")
    return [found[number] for number in sorted(found)]


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database up to date, in one transaction; safe when two processes start at once.

    Raises:
        StoreMisconfigured: the database is newer than the program.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    scripts = migrations()
    check_not_newer(connection, path)
    if version_of(connection) == len(scripts):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        check_not_newer(connection, path)
        for script in scripts[version_of(connection) :]:
            for statement in _statements(script):
                connection.execute(statement)
        live_keys.name(connection)
        connection.execute(f"PRAGMA user_version = {len(scripts)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def check_not_newer(connection: sqlite3.Connection, path: Path) -> None:
    version, known = version_of(connection), len(migrations())
    if version > known:
        raise StoreMisconfigured(
            f"{path}: made by a newer smtpproxy (version {version} of the database, this "
            f"program knows {known}); run that release, or restore an older backup"
        )


def check_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    check_not_newer(connection, path)
    version, known = version_of(connection), len(migrations())
    if version < known:
        raise StoreOutdated(
            f"{path}: version {version} of the database, this program needs {known}; "
            "start smtpproxy serve, or any command that writes, to bring it up to date"
        )


def _statements(script: str) -> Iterator[str]:
    """Split at the ends of statements; a trigger's own semicolons are no ends."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
