"""What was answered to a request with an idempotency key, so that a retry does nothing again."""

import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from smtpproxy.store.answers import KEPT, MOST, UNFINISHED, Begun, KeptAnswer
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    FIND_ANSWER,
    FINISH_ANSWER,
    FORGET_ANSWER,
    PRUNE_ANSWERS,
    keyed_hash,
)
from smtpproxy.store.sqlite.side_file import SideFile

# `request` is a keyed hash: of who asks, and of the key.
TABLES = """
CREATE TABLE answer (
    request BLOB PRIMARY KEY,
    asked BLOB NOT NULL,     -- keyed hash of what was asked
    at INTEGER NOT NULL,     -- microseconds since 1970
    body BLOB,               -- NULL: it is being done
    version TEXT             -- for its ETag
) WITHOUT ROWID;
CREATE INDEX answer_at ON answer (at);
"""
_TRIM = """
DELETE FROM answer WHERE request IN
    (SELECT request FROM answer ORDER BY at LIMIT max(0, (SELECT count(*) FROM answer) - ?))
"""
_BEGIN = "INSERT INTO answer (request, asked, at) VALUES (?, ?, ?)"


class SqliteAnswers:
    """A `KeptAnswers`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float, now: Callable[[], datetime]) -> None:
        self._file = SideFile(database.with_name(f"{database.stem}-answers.db"), TABLES, timeout)
        self._now = now

    async def begin(self, token: str, key: str, asked: bytes) -> Begun | KeptAnswer:
        def begin(connection: sqlite3.Connection) -> Begun | KeptAnswer:
            now = self._now()
            old = (to_micros(now - KEPT), to_micros(now - UNFINISHED))
            connection.execute(PRUNE_ANSWERS, old)
            request, digest = self._request(token, key), self._hash(asked)
            row = connection.execute(FIND_ANSWER, (request,)).fetchone()
            if row is None:
                connection.execute(_TRIM, (MOST - 1,))
                connection.execute(_BEGIN, (request, digest, to_micros(now)))
                return "new"
            known, body, version = row
            if known != digest:
                return "other"
            return "running" if body is None else KeptAnswer(body, version)

        return await self._file.write(begin)

    async def finish(self, token: str, key: str, answer: KeptAnswer) -> None:
        def finish(connection: sqlite3.Connection) -> None:
            row = (answer.body, answer.version, self._request(token, key))
            connection.execute(FINISH_ANSWER, row)

        await self._file.write(finish)

    async def forget(self, token: str, key: str) -> None:
        await self._file.write(lambda c: c.execute(FORGET_ANSWER, (self._request(token, key),)))

    def close(self) -> None:
        self._file.close()

    def _request(self, token: str, key: str) -> bytes:
        return self._hash(f"{token}\0{key}".encode())

    def _hash(self, octets: bytes) -> bytes:
        return keyed_hash(octets, self._file.secret)
