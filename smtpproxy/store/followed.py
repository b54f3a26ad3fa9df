"""How far each relay has reported the matches in its journal, for the purge of suppressions.

A refused mail renews the suppression that it matched, and is recorded in the refusing relay's
journal. So no relay purges suppressions before the others have reported their matches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec
from msgspec import Struct

from smtpproxy.settings import ServerSettings
from smtpproxy.store.relays import known_relay_id, relay_id
from smtpproxy.store.sql.store import Store

_SOURCE = "matches:"
_FRESH = timedelta(hours=12)
"""All relays purge once a day: the last of them finds the reports of the others."""
_GONE = timedelta(days=30)
"""A relay that has reported nothing for so long is considered gone for good."""
_NEVER = datetime.fromtimestamp(0, UTC)


class _Progress(Struct):
    """Up to when a relay has reported all its matches, and the last row read of each slot."""

    relay: str  # its host name, for people
    until: datetime
    rows: dict[int, int]


@dataclass(slots=True)
class Followed:
    """The progress of one relay. Methods raise StoreUnavailable."""

    store: Store
    source: str
    progress: _Progress

    @classmethod
    async def of(cls, store: Store, server: ServerSettings, *, dry_run: bool = False) -> Self:
        """Raises StoreUnavailable, OSError."""
        id_of = known_relay_id if dry_run else relay_id
        source = f"{_SOURCE}{id_of(server.state_dir)}"
        mine = (await _all(store)).get(source) or _Progress(server.hostname, _NEVER, {})
        mine.relay = server.hostname
        return cls(store, source, mine)

    @property
    def relay(self) -> str:
        return self.source.removeprefix(_SOURCE)

    @property
    def rows(self) -> Mapping[int, int]:
        return dict(self.progress.rows)

    async def note(self, rows: Mapping[int, int], until: datetime | None = None) -> None:
        """Save how far the journal was read; `until`: all that was recorded by then was read."""
        self.progress.rows |= rows
        self.progress.until = until or self.progress.until
        state = msgspec.json.encode(self.progress).decode()
        await self.store.log_events((), (self.source, state))

    async def behind(self, now: datetime) -> Sequence[str]:
        """Return the other relays that have not reported their matches recently.

        What a relay reported while its clock was ahead says nothing of the time since.
        """
        others = await _all(self.store)
        others.pop(self.source, None)
        ages = [(one.relay, now - one.until) for one in others.values()]
        return sorted(name for name, age in ages if _FRESH < age < _GONE or age < -_FRESH)


async def _all(store: Store) -> dict[str, _Progress]:
    sources = await store.event_sources()
    return {
        name: msgspec.json.decode(state, type=_Progress)
        for name, state in sources.items()
        if name.startswith(_SOURCE)
    }
