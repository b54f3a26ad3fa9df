"""Recognising a database of a preview, from before the first release: no migration fits it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.sqlite.connection import migrations, version_of


def check_can_migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreMisconfigured for a database with fewer columns than its version says."""
    with closing(sqlite3.connect(":memory:")) as made:
        for script in migrations()[: version_of(connection)]:
            made.executescript(script)
        missing = _columns(made) - _columns(connection)
    if missing:
        raise StoreMisconfigured(
            f"{path}: made by a preview of smtpproxy, or altered: {min(missing)} is missing. Export"
            " contacts and suppressions with the program that made it, move the file away, and"
            " import them again"
        )


def _columns(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute(
        "SELECT one.name || '.' || of_it.name FROM sqlite_master AS one,"
        " pragma_table_info(one.name) AS of_it WHERE one.type = 'table'"
    )
    return {name for (name,) in found}
