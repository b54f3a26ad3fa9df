"""Writing each commit to the journal of changes, before it is acknowledged."""

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from smtpproxy.policy.model import Preference
from smtpproxy.store.change_journal import FOLDER, Change, Journal, JournalGap, Mark, Refusal
from smtpproxy.store.keys import key_text
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.live_keys import LiveKeys
from smtpproxy.store.sql.rows import act_brand, from_micros, optional_moment
from smtpproxy.store.sql.session import Session

_NEWEST = """
SELECT coalesce(max(iif(name = 'suppression_change', seq, 0)), 0),
    coalesce(max(iif(name = 'refusal_change', seq, 0)), 0)
FROM sqlite_sequence
"""
# The fingerprint of a key that is no longer known is replaced by zeros.
_CHANGES = """
SELECT seq, change.at, coalesce(event.action, change.action), coalesce(fingerprint, '00000000'),
    wide_key, exact_key, coalesce(subject, scope), coalesce(cause, origin), coalesce(until, since)
FROM suppression_change AS change LEFT JOIN suppression_key ON version = key_version
    LEFT JOIN stream_event AS event ON event.id = stream_event
WHERE seq > ? AND seq <= ? AND (change.action IN ('added', 'moved', 'lifted')
    OR event.action IN ('paused', 'resumed') AND subject <> 'marketing') ORDER BY seq LIMIT ?
"""
_REFUSALS = """
SELECT seq, at, address, action, purpose, since, details
FROM refusal_change LEFT JOIN contact ON id = contact
WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""
_AT_ONCE = 5_000
_read_wish = msgspec.json.Decoder(Preference).decode


class ChangeFollower:
    """Appends what a store has committed to the journal; other processes do so as well."""

    def __init__(self, state_dir: Path, keys: LiveKeys) -> None:
        self._journal = Journal(state_dir / FOLDER)
        self._keys = keys
        self._known: Mark | None = None

    async def follow(self, session: Session) -> None:
        """Append the commits that are not in the journal yet.

        Raises StoreUnavailable if it cannot; then only the database has them, and the next commit
        tries again.
        """
        newest = await _newest(session)
        if newest == self._known:
            return
        stack = ExitStack()
        taking = asyncio.create_task(asyncio.to_thread(stack.enter_context, self._journal.locked()))
        try:
            await asyncio.shield(taking)
            await self._write(session, newest)
        except (OSError, JournalGap) as error:
            why = str(error)
            if isinstance(error, OSError) and error.strerror:
                why = ": ".join(map(str, filter(None, (error.filename, error.strerror))))
            raise StoreUnavailable(f"the journal of changes cannot be written: {why}") from error
        finally:
            if not taking.done():  # cancelled: release the lock as soon as it is taken
                taking.add_done_callback(lambda _: stack.close())
            else:
                stack.close()
        self._known = newest

    async def _write(self, session: Session, newest: Mark) -> None:
        _, (change, refusal) = self._journal.end()
        while True:
            suppressions = await session.fetch_all(_CHANGES, change, newest[0], _AT_ONCE)
            refusals = await session.fetch_all(_REFUSALS, refusal, newest[1], _AT_ONCE)
            if not suppressions and not refusals:
                return
            found: list[tuple[Change, Mark]] = []
            for change, at, action, fingerprint, wide, exact, scope, origin, since in suppressions:
                key = "" if wide is None else key_text(fingerprint, (wide, exact))
                moment = optional_moment(since)
                one = Change(from_micros(at), action, key, scope, origin, moment)
                found.append((one, (change, refusal)))
            if refusals:
                ring = (await self._keys.current(session)).newest
                for refusal, at, address, *rest in refusals:
                    key = "" if address is None else ring.text(ring.pair(address))
                    one = _refusal(from_micros(at), key, *rest)
                    found.append((one, (change, refusal)))
            await asyncio.to_thread(self._journal.append, found, datetime.now(UTC))


def _refusal(
    at: datetime,
    key: str,
    action: Refusal | Literal["import_undone"],
    purpose: str,
    since: int | None,
    details: str | None,
) -> Change:
    if action == "import_undone":
        return Change(at, action, id=purpose)
    if action == "withdrawn":
        assert since is not None
        brand = act_brand(details)
        return Change(at, action, key, since=from_micros(since), purpose=purpose, brand=brand)
    if action == "restricted":
        return Change(at, action, key, since=at, tag=purpose)
    if action == "wished":
        wish = _read_wish(details or "")
        return Change(
            *(at, action, key),
            since=wish.at,
            purpose=wish.purpose,
            brand=wish.brand,
            frequency=wish.frequency,
        )
    return Change(at, action, key, since=datetime.fromisoformat(details or ""))


async def _newest(session: Session) -> Mark:
    change, withdrawal = (await session.fetch_all(_NEWEST))[0]
    return change, withdrawal
