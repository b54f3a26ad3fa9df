"""SQLite databases created by an older version migrate to the schema of new ones."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.store.sqlite import connection as opening
from tests.store.conftest import Database

# What 0001 created for a while: see 0006.
AS_EDITED = """
DROP TABLE refusal_change;
CREATE TABLE refusal_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    contact INTEGER REFERENCES contact (id) ON DELETE CASCADE,
    action TEXT NOT NULL,
    purpose TEXT NOT NULL,
    since INTEGER,
    details TEXT
);
CREATE INDEX refusal_change_contact ON refusal_change (contact);
CREATE TRIGGER refusal_change_import_undone AFTER UPDATE OF record ON import
WHEN json_extract(NEW.record, '$.state') IN ('undoing', 'undone')
  AND coalesce(json_extract(OLD.record, '$.state'), '') NOT IN ('undoing', 'undone') BEGIN
    INSERT INTO refusal_change (at, action, purpose) VALUES (1, 'import_undone', NEW.id);
END;
"""
HAPPENED = """
INSERT INTO contact (id, address, audience) VALUES (7, 'anna@example.com', 'consumer');
INSERT INTO consent_act (contact, at, withdrawal, sequence, purpose)
VALUES (7, 1000000, 1, 0, 'offers'), (7, 2000000, 1, 0, 'newsletter');
DELETE FROM refusal_change WHERE seq = 2;
INSERT INTO import (id, record) VALUES ('a', '{"state": "done"}'), ('b', '{"state": "done"}');
UPDATE import SET record = '{"state": "undone"}' WHERE id = 'a';
"""


def made_by(path: Path, version: int, *scripts: str) -> None:
    """Create a database as a program with that many migrations did."""
    with closing(sqlite3.connect(path)) as connection:
        for script in (*opening.migrations()[:version], *scripts):
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {version}")


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        return sorted(found, key=lambda row: row[:2])


@pytest.mark.parametrize("scripts", [(), (AS_EDITED,)], ids=["as released", "edited"])
@pytest.mark.parametrize("version", [1, 5])
def test_an_older_database_gets_the_schema_of_a_new_one(
    database: Database, tmp_path: Path, version: int, scripts: tuple[str, ...]
) -> None:
    new = Database(tmp_path / "new")
    new.open()
    made_by(database.path, version, *scripts, HAPPENED)
    database.open()
    assert schema(database.path) == schema(new.path)
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("""UPDATE import SET record = '{"state": "undone"}' WHERE id = 'b'""")
        changes = connection.execute("SELECT seq, contact, action, purpose FROM refusal_change")
        assert changes.fetchall() == [
            (1, 7, "withdrawn", "offers"),
            (3, None, "import_undone", "a"),  # no number is reused
            (4, None, "import_undone", "b"),
        ]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
