"""Propagation to others: the log of changes, the progress of webhooks, and dead letters.

Triggers write the log (0001_initial.sql of each database).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from smtpproxy.policy.model import Origin
from smtpproxy.store.keys import key_text
from smtpproxy.store.sql.rows import Row, from_micros, record_of, row_of, to_micros
from smtpproxy.store.sql.session import Connections, Session, listed, put_row
from smtpproxy.store.streams import StreamEvent

Action = Literal["added", "moved", "lifted"]


class SuppressionChange(Struct, frozen=True):
    """One change. `moved`: the suppression was requested again, later.

    A suppression that was purged or rekeyed is not `lifted`: that permits no mail.
    """

    seq: int  # grows; gaps mean nothing
    at: datetime  # when it was written
    action: Action
    key: str  # the key text of exports
    scope: str
    origin: Origin
    since: datetime


class StreamChange(Struct, frozen=True):
    """A warning about a stream or a brand, its pause, or the end of one."""

    seq: int  # among all changes
    at: datetime
    event: StreamEvent | None  # None: deleted since


Topic = Literal["campaign", "feedback", "refusals"]


class NewEvent(Struct, frozen=True):
    """An event to log, identified by `key`. `data` names nobody."""

    key: str
    topic: Topic
    data: Mapping[str, object]


class LoggedEvent(Struct, frozen=True):
    """An event in the log."""

    seq: int  # among all changes
    at: datetime
    topic: Topic
    data: Mapping[str, object]


LoggedChange = SuppressionChange | StreamChange | LoggedEvent


class ChangesGone(Exception):
    """The log lacks changes after `since`: it was trimmed, or is a different one.

    The client has to start again: keep `newest`, read an export, then ask for changes since it.
    """

    def __init__(self, since: int, newest: int) -> None:
        super().__init__(f"the changes after {since} are not in the log; its newest is {newest}")
        self.since = since
        self.newest = newest


class WebhookState(Struct, frozen=True):
    """The progress of one webhook. Only the dispatcher writes it."""

    name: str
    position: int  # the last change that is dealt with
    message_id: str | None = None  # of the current message, the same at every try
    message_end: int | None = None  # the last change that it covers
    failures: int = 0  # in a row
    failing_since: datetime | None = None
    retry_at: datetime | None = None
    disabled_at: datetime | None = None
    last_error: str | None = None
    delivered_at: datetime | None = None
    woken: bool = False  # a retry was requested


class Holding(Struct, frozen=True):
    """The relay that delivers to a webhook, and until when it alone does."""

    relay: str  # its `relay_id`
    until: datetime


class WebhookProgress(Struct, frozen=True):
    """How far all webhooks are, at one moment."""

    newest: int  # the number of the newest change there ever was
    states: Mapping[str, WebhookState]
    holdings: Mapping[str, Holding]  # which relay delivers to each, or did last


class DeadLetter(Struct, frozen=True):
    """A message that could not be delivered in time, kept until an operator decides."""

    webhook: str
    message_id: str
    body: bytes
    changes: int
    oldest_at: datetime  # of its changes
    died_at: datetime
    attempts: int
    error: str
    retry: bool = False  # requested
    id: int = 0  # given by the store


class Backlog(Struct, frozen=True):
    """What one webhook has not received yet."""

    oldest: datetime | None = None  # of the undelivered changes, dead letters included
    dead_letters: int = 0
    disabled: bool = False


_THEIRS = timedelta(days=1)


def of_others(holdings: Mapping[str, Holding], relay: str, now: datetime) -> Sequence[str]:
    """Return the webhooks that another relay delivers to, or did recently."""
    return [
        name
        for name, held in holdings.items()
        if held.relay != relay and now - held.until < _THEIRS
    ]


# The fingerprint of a key that is no longer known is replaced by zeros.
_AFTER = """
SELECT seq, change.at, change.action, change.event, coalesce(fingerprint, '00000000'), wide_key,
    exact_key, scope, origin, since, stream_event.*
FROM suppression_change AS change LEFT JOIN suppression_key ON version = key_version
    LEFT JOIN stream_event ON stream_event.id = change.stream_event
WHERE seq > ? ORDER BY seq LIMIT ?
"""
_OLDEST = "SELECT min(seq) FROM suppression_change"
# Ordered by number, as the clock may have been set back.
_FIRST_TO_KEEP = "SELECT seq FROM suppression_change WHERE at >= ? ORDER BY seq LIMIT 1"
_TRIM = """
DELETE FROM suppression_change WHERE seq <= ?1 AND seq IN
    (SELECT seq FROM suppression_change ORDER BY seq LIMIT ?2)
"""
_AT_ONCE = 5_000
"""Rows in one transaction, while other writers wait."""
_POSITIONS = """
SELECT min(position) FROM webhook_state
WHERE disabled_at IS NULL AND name IN (SELECT value FROM json_each(?))
"""

_STATE = (
    "name, position, message_id, message_end, failures, failing_since, retry_at,"
    " disabled_at, last_error, delivered_at"
)
_LOG = """
INSERT INTO suppression_change (at, action, event, event_key) VALUES (?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_NOTE_SOURCE = put_row("event_source", "name, state")
_SOURCES = "SELECT name, state FROM event_source"
_HOLDING = "webhook:"
_FORGET_SOURCES = "DELETE FROM event_source WHERE name IN (SELECT value FROM json_each(?))"
_PUT = put_row("webhook_state", _STATE)
_LETTER = "webhook, message_id, body, changes, oldest_at, died_at, attempts, error, retry"
_LETTERS_OF = f"""
SELECT {_LETTER}, id FROM webhook_dead_letter WHERE ? IN (webhook, '') ORDER BY id
"""
_BURY = f"INSERT INTO webhook_dead_letter ({_LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FAILED_AGAIN = """
UPDATE webhook_dead_letter SET retry = 0, attempts = attempts + 1, error = ? WHERE id = ?
"""
_FORGET = "DELETE FROM webhook_state WHERE name NOT IN (SELECT value FROM json_each(?))"
_WHICH = "webhook = ? AND CAST(? AS BIGINT) IN (id, 0)"
_BACKLOG = """
SELECT name, disabled_at IS NOT NULL,
    (SELECT at FROM suppression_change WHERE seq > position ORDER BY seq LIMIT 1),
    (SELECT min(oldest_at) FROM webhook_dead_letter WHERE webhook = name),
    (SELECT count(*) FROM webhook_dead_letter WHERE webhook = name)
FROM webhook_state
"""


class Propagation(Connections):
    """The part of a store about the log of changes, which every write of suppressions appends to,
    and about webhooks. One relay writes the progress of each; operators may request retries."""

    async def changes(self, since: int, limit: int) -> Sequence[LoggedChange]:
        """Return up to `limit` changes after number `since`, in order.

        Raises `ChangesGone` if the log does not reach back to it, or never had that number.
        """
        # One snapshot, so that changes trimmed meanwhile are not missed unnoticed.
        async with self._reading(snapshot=True) as session:
            newest = await self._newest(session)
            oldest = (await session.fetch_all(_OLDEST))[0][0]
            if since > newest or since < (newest if oldest is None else oldest - 1):
                raise ChangesGone(since, newest)
            return [_change(row) for row in await session.fetch_all(_AFTER, since, limit)]

    async def newest_change(self) -> int:
        """Return the number of the newest change there ever was; 0 before the first."""
        async with self._reading() as session:
            return await self._newest(session)

    async def trim_changes(self, before: datetime, *, webhooks: Collection[str] = ()) -> int:
        """Delete the changes from before a time; return how many.

        Those that one of `webhooks` has yet to receive stay, unless it is disabled.
        """
        async with self._reading() as session:
            kept = await session.fetch_all(_FIRST_TO_KEEP, to_micros(before))
            upto = kept[0][0] - 1 if kept else await self._newest(session)
            slowest = (await session.fetch_all(_POSITIONS, listed(webhooks)))[0][0]
        upto = upto if slowest is None else min(upto, slowest)
        total, trimmed = 0, _AT_ONCE
        while trimmed == _AT_ONCE:
            trimmed = await self._change(_TRIM, upto, _AT_ONCE)
            total += trimmed
        return total

    async def log_events(
        self, events: Sequence[NewEvent], source: tuple[str, str] | None = None
    ) -> None:
        """Log new events, in order, and save how far a source has been read, in one commit.

        `source` is its name, and its progress in any form.
        """
        at = to_micros(datetime.now(UTC)) // 1000 * 1000
        rows = [
            (at, one.topic, msgspec.json.encode(one.data).decode(), f"{one.topic}:{one.key}")
            for one in events
        ]
        async with self._writing() as session:
            await session.run_many(_LOG, rows)
            if source is not None:
                await session.run(_NOTE_SOURCE, *source)

    async def event_sources(self) -> Mapping[str, str]:
        """Return the progress of each source, by name."""
        async with self._reading() as session:
            return dict(await session.fetch_all(_SOURCES))

    async def forget_event_sources(self, names: Collection[str]) -> None:
        """Delete the progress of these; they start again."""
        await self._change(_FORGET_SOURCES, listed(names))

    async def hold_webhooks(
        self, holdings: Mapping[str, Holding], now: datetime
    ) -> Collection[str]:
        """Reserve webhooks for a relay for some time; return which, without those that another one
        has at `now`."""
        async with self._writing() as session:
            held = await _holdings(session)
            free = {
                name: holding
                for name, holding in holdings.items()
                if name not in held or held[name].relay == holding.relay or held[name].until <= now
            }
            rows = [(_HOLDING + n, msgspec.json.encode(one).decode()) for n, one in free.items()]
            await session.run_many(_NOTE_SOURCE, rows)
        return free

    async def webhook_progress(self) -> WebhookProgress:
        """Return all states and holdings, and the newest change."""
        async with self._reading(snapshot=True) as session:
            newest = await self._newest(session)
            found = await session.fetch_all(f"SELECT {_STATE}, woken FROM webhook_state")
            states = {row[0]: record_of(WebhookState, row) for row in found}
            return WebhookProgress(newest, states, await _holdings(session))

    async def put_webhook_states(
        self, states: Sequence[WebhookState], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """Store all but `woken`, and dead letters, in one commit."""
        async with self._writing() as session:
            await session.run_many(_PUT, [row_of(astuple(state)[:-1]) for state in states])
            await session.run_many(_BURY, [row_of(astuple(letter)[:-1]) for letter in dead])

    async def forget_webhooks(self, kept: Collection[str]) -> None:
        """Delete the progress of all but these; dead letters stay."""
        await self._change(_FORGET, listed(kept))
        gone = set((await self.webhook_progress()).holdings) - set(kept)
        if gone:
            await self.forget_event_sources([_HOLDING + name for name in gone])

    async def wake_webhook(self, name: str) -> bool:
        """Request a retry now, even of a disabled webhook; False if there is no such webhook."""
        return await self._change("UPDATE webhook_state SET woken = 1 WHERE name = ?", name) > 0

    async def take_wake(self, name: str) -> bool:
        """Return whether a retry was requested, and clear the request."""
        sql = "UPDATE webhook_state SET woken = 0 WHERE name = ? AND woken = 1"
        return await self._change(sql, name) > 0

    async def dead_letters(self, webhook: str | None = None) -> Sequence[DeadLetter]:
        """Return those of one webhook, or all, the oldest first."""
        async with self._reading() as session:
            found = await session.fetch_all(_LETTERS_OF, webhook or "")
        return [record_of(DeadLetter, row) for row in found]

    async def retry_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Mark one, or all, for another try; return how many."""
        sql = f"UPDATE webhook_dead_letter SET retry = 1 WHERE {_WHICH}"
        return await self._change(sql, webhook, letter or 0)

    async def settle_dead_letter(self, letter: int, error: str | None) -> None:
        """Delete a delivered letter (no error), or keep one that failed again, unmarked."""
        if error is None:
            await self._change("DELETE FROM webhook_dead_letter WHERE id = ?", letter)
        else:
            await self._change(_FAILED_AGAIN, error, letter)

    async def drop_dead_letters(self, webhook: str, letter: int | None = None) -> int:
        """Give up one, or all; return how many."""
        sql = f"DELETE FROM webhook_dead_letter WHERE {_WHICH}"
        return await self._change(sql, webhook, letter or 0)

    async def backlog(self) -> Mapping[str, Backlog]:
        """Return the backlog of each webhook that was ever started."""
        found = {}
        async with self._reading() as session:
            for name, disabled, waiting, dead, count in await session.fetch_all(_BACKLOG):
                moments = [from_micros(at) for at in (waiting, dead) if at is not None]
                found[name] = Backlog(min(moments, default=None), count, bool(disabled))
        return found

    async def _change(self, sql: str, *values: object) -> int:
        """Run one statement as a transaction; return how many rows it changed."""
        async with self._writing() as session:
            return await session.run(sql, *values)

    async def _newest(self, session: Session) -> int:
        number: int = (await session.fetch_all(self._dialect.newest_change))[0][0]
        return number


async def _holdings(session: Session) -> Mapping[str, Holding]:
    return {
        name.removeprefix(_HOLDING): msgspec.json.decode(state, type=Holding)
        for name, state in await session.fetch_all(_SOURCES)
        if name.startswith(_HOLDING)
    }


def _change(row: Row) -> LoggedChange:
    seq, at, action, data, fingerprint, wide, exact, scope, origin, moment, id, *event = row
    if data is not None:
        return LoggedEvent(seq, from_micros(at), action, msgspec.json.decode(data))
    if action == "stream":
        return StreamChange(seq, from_micros(at), record_of(StreamEvent, event) if id else None)
    key = key_text(fingerprint, (wide, exact))
    return SuppressionChange(
        seq, from_micros(at), action, key, scope, Origin(origin), from_micros(moment)
    )
