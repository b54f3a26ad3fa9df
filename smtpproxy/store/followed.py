"""How far the journal of each relay of a store was followed, for the purge of suppressions.

Mail that a suppression matched renews it, and is in the journal of the relay that refused the mail.
So no relay purges suppressions before the others have told of theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec
from msgspec import Struct

from smtpproxy.settings import ServerSettings
from smtpproxy.store.propagation import EventLog
from smtpproxy.store.relays import known_relay_id, relay_id

_SOURCE = "matches:"
_FRESH = timedelta(hours=12)
"""All relays purge once a day: whoever does last finds what the others told just before."""
_GONE = timedelta(days=30)
"""After which a relay that tells nothing any more is taken for one that is gone for ever."""
_NEVER = datetime.fromtimestamp(0, UTC)


class _Told(Struct):
    """Up to when a relay told of all its matches, and the last row of each slot that was read."""

    relay: str  # its host name, for people
    until: datetime
    rows: dict[int, int]


@dataclass(slots=True)
class Followed:
    """What one relay told. Methods raise StoreUnavailable."""

    store: EventLog
    source: str
    told: _Told

    @classmethod
    async def of(cls, store: EventLog, server: ServerSettings, *, dry_run: bool = False) -> Self:
        """Raises StoreUnavailable, OSError."""
        of = known_relay_id if dry_run else relay_id
        source = f"{_SOURCE}{of(server.state_dir)}"
        mine = (await _all(store)).get(source) or _Told(server.hostname, _NEVER, {})
        mine.relay = server.hostname
        return cls(store, source, mine)

    @property
    def relay(self) -> str:
        return self.source.removeprefix(_SOURCE)

    @property
    def rows(self) -> Mapping[int, int]:
        return dict(self.told.rows)

    async def note(self, rows: Mapping[int, int], until: datetime | None = None) -> None:
        """Remember how far it was read; `until`: that nothing is left that was recorded by then."""
        self.told.rows |= rows
        self.told.until = until or self.told.until
        state = msgspec.json.encode(self.told).decode()
        await self.store.log_events((), (self.source, state))

    async def behind(self, now: datetime) -> Sequence[str]:
        """Return the other relays that have not told of their matches lately."""
        told = await _all(self.store)
        told.pop(self.source, None)
        return sorted(one.relay for one in told.values() if _FRESH < now - one.until < _GONE)


async def _all(store: EventLog) -> dict[str, _Told]:
    sources = await store.event_sources()
    return {
        name: msgspec.json.decode(state, type=_Told)
        for name, state in sources.items()
        if name.startswith(_SOURCE)
    }
