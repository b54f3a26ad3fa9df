"""How far each webhook is, and its dead letters."""

from collections.abc import Collection, Mapping
from dataclasses import astuple

import aiosqlite
import msgspec

from smtpproxy.store.operations import Arrears, DeadLetter, WebhookState
from smtpproxy.store.sqlite.connection import fetch_all
from smtpproxy.store.sqlite.rows import (
    Row,
    from_micros,
    optional_micros,
    optional_moment,
    to_micros,
)

_STATE = (
    "name, position, message_id, message_end, failures, failing_since, retry_at,"
    " disabled_at, last_error, delivered_at"
)
_PUT = f"""
INSERT INTO webhook_state ({_STATE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET position = excluded.position, message_id = excluded.message_id,
    message_end = excluded.message_end, failures = excluded.failures,
    failing_since = excluded.failing_since, retry_at = excluded.retry_at,
    disabled_at = excluded.disabled_at, last_error = excluded.last_error,
    delivered_at = excluded.delivered_at
"""
_LETTER = "webhook, message_id, body, changes, oldest_at, died_at, attempts, error, retry"
_LETTERS_OF = f"""
SELECT {_LETTER}, id FROM webhook_dead_letter WHERE ? IN (webhook, '') ORDER BY id
"""
_WHICH = "webhook = ? AND ? IN (id, 0)"
_ARREARS = """
SELECT name, disabled_at IS NOT NULL,
    (SELECT at FROM suppression_change WHERE seq > position ORDER BY seq LIMIT 1),
    (SELECT min(oldest_at) FROM webhook_dead_letter WHERE webhook = name),
    (SELECT count(*) FROM webhook_dead_letter WHERE webhook = name)
FROM webhook_state
"""


async def states(connection: aiosqlite.Connection) -> Mapping[str, WebhookState]:
    found = await fetch_all(connection, f"SELECT {_STATE}, woken FROM webhook_state")
    return {row[0]: _state(row) for row in found}


def _state(row: Row) -> WebhookState:
    name, position, id, end, failures, failing, retry, disabled, error, delivered, woken = row
    return WebhookState(
        name,
        position,
        id,
        end,
        failures,
        optional_moment(failing),
        optional_moment(retry),
        optional_moment(disabled),
        error,
        optional_moment(delivered),
        bool(woken),
    )


async def put_state(
    connection: aiosqlite.Connection, state: WebhookState, dead: DeadLetter | None
) -> None:
    row = (
        state.name,
        state.position,
        state.message_id,
        state.message_end,
        state.failures,
        optional_micros(state.failing_since),
        optional_micros(state.retry_at),
        optional_micros(state.disabled_at),
        state.last_error,
        optional_micros(state.delivered_at),
    )
    await connection.execute(_PUT, row)
    if dead is not None:
        webhook, message_id, body, changes, oldest_at, died_at, *rest = astuple(dead)[:-1]
        await connection.execute(
            f"INSERT INTO webhook_dead_letter ({_LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (webhook, message_id, body, changes, to_micros(oldest_at), to_micros(died_at), *rest),
        )


async def forget(connection: aiosqlite.Connection, kept: Collection[str]) -> None:
    names = msgspec.json.encode(list(kept)).decode()
    await connection.execute(
        "DELETE FROM webhook_state WHERE name NOT IN (SELECT value FROM json_each(?))", (names,)
    )


async def wake(connection: aiosqlite.Connection, name: str) -> bool:
    return await _changed(connection, "UPDATE webhook_state SET woken = 1 WHERE name = ?", name) > 0


async def take_wake(connection: aiosqlite.Connection, name: str) -> bool:
    sql = "UPDATE webhook_state SET woken = 0 WHERE name = ? AND woken"
    return await _changed(connection, sql, name) > 0


async def letters(connection: aiosqlite.Connection, webhook: str | None) -> list[DeadLetter]:
    return [
        DeadLetter(
            name, message, body, changes, from_micros(oldest), from_micros(died), tries, error,
            bool(retry), id,
        )
        for name, message, body, changes, oldest, died, tries, error, retry, id in await fetch_all(
            connection, _LETTERS_OF, webhook or ""
        )
    ]  # fmt: skip


async def retry(connection: aiosqlite.Connection, webhook: str, letter: int | None) -> int:
    sql = f"UPDATE webhook_dead_letter SET retry = 1 WHERE {_WHICH}"
    return await _changed(connection, sql, webhook, letter or 0)


async def settle(connection: aiosqlite.Connection, letter: int, error: str | None) -> None:
    if error is None:
        await _changed(connection, "DELETE FROM webhook_dead_letter WHERE id = ?", letter)
        return
    sql = (
        "UPDATE webhook_dead_letter SET retry = 0, attempts = attempts + 1, error = ? WHERE id = ?"
    )
    await _changed(connection, sql, error, letter)


async def drop(connection: aiosqlite.Connection, webhook: str, letter: int | None) -> int:
    sql = f"DELETE FROM webhook_dead_letter WHERE {_WHICH}"
    return await _changed(connection, sql, webhook, letter or 0)


async def arrears(connection: aiosqlite.Connection) -> Mapping[str, Arrears]:
    found = {}
    for name, disabled, waiting, dead, count in await fetch_all(connection, _ARREARS):
        moments = [from_micros(moment) for moment in (waiting, dead) if moment is not None]
        found[name] = Arrears(min(moments, default=None), count, bool(disabled))
    return found


async def _changed(connection: aiosqlite.Connection, sql: str, *values: object) -> int:
    async with await connection.execute(sql, values) as cursor:
        changed: int = cursor.rowcount
        return changed
