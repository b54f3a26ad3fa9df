"""The web server's tables beside the store: answers to requests with an idempotency key, so that a
retry has no further effect, and the number of recent confirmation mails."""

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from smtpproxy.store.answers import KEPT, MOST, UNFINISHED, KeptAnswer, RequestState
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    COUNT_CONFIRMATION,
    FIND_ANSWER,
    FINISH_ANSWER,
    FORGET_ANSWER,
    GIVE_CONFIRMATION_BACK,
    PRUNE_ANSWERS,
    PRUNE_CONFIRMATIONS,
    keyed_hash,
    mailbox_hash,
)
from smtpproxy.store.sqlite.side_file import SideFile

# `request` is a keyed hash of the client's token and the idempotency key.
ANSWER_TABLES = """
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
        self._file = SideFile(
            database.with_name(f"{database.stem}-answers.db"), ANSWER_TABLES, timeout
        )
        self._now = now

    async def begin(self, token: str, key: str, asked: bytes) -> RequestState | KeptAnswer:
        def begin(connection: sqlite3.Connection) -> RequestState | KeptAnswer:
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


# Times are microseconds since 1970 in UTC; a person is a keyed hash of the widened address.
CONFIRMATION_TABLES = """
CREATE TABLE confirmation (
    person BLOB NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX confirmation_person ON confirmation (person);
"""
_OF_PERSON = "SELECT count(*) FROM confirmation WHERE person = ?"
_OF_ALL = "SELECT count(*) FROM confirmation"
_DAY = timedelta(days=1)


class SqliteConfirmations:
    """A `ConfirmationLimit`. Opened with the first use, on the event loop."""

    def __init__(self, database: Path, timeout: float) -> None:
        path = database.with_name(f"{database.stem}-confirmations.db")
        self._file = SideFile(path, CONFIRMATION_TABLES, timeout)

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        def take(connection: sqlite3.Connection) -> bool:
            person = self._person(address)
            connection.execute(PRUNE_CONFIRMATIONS, (to_micros(at - _DAY),))
            (of_person,) = connection.execute(_OF_PERSON, (person,)).fetchone()
            (of_all,) = connection.execute(_OF_ALL).fetchone()
            if of_person >= per_address or of_all >= per_day:
                return False
            connection.execute(COUNT_CONFIRMATION, (person, to_micros(at)))
            return True

        return await self._file.write(take)

    async def give_back(self, address: str, at: datetime) -> None:
        def give_back(connection: sqlite3.Connection) -> None:
            connection.execute(GIVE_CONFIRMATION_BACK, (self._person(address), to_micros(at)))

        await self._file.write(give_back)

    def _person(self, address: str) -> bytes:
        return mailbox_hash(address, self._file.secret)

    def close(self) -> None:
        self._file.close()
