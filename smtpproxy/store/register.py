"""What the relays of one store tell of themselves, so that each knows what the others can do.

A new key counts only once every relay has it, and two relays whose configurations differ judge the
same message differently: both show here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct, field

SILENT_AFTER = timedelta(hours=1)
"""A relay that told nothing for longer is not waited for: it has ended, or cannot reach the store
and takes no mail. It does not start again without the keys that came into use meanwhile."""
FORGOTTEN_AFTER = timedelta(days=30)

Fingerprints = Mapping[int, str]
"""Of keys, by version: what shows which they are, and gives none away."""


class RelayState(Struct, frozen=True):
    """What a relay tells. `keys` are fingerprints by key file."""

    host: str
    keys: dict[str, dict[int, str]]
    streams: dict[str, str] = field(default_factory=dict)  # by name: what each is
    brands: tuple[str, ...] = ()


class Relay(Struct, frozen=True):
    """A relay, by its `relay_id`, and what it told last."""

    id: str
    at: datetime
    state: RelayState

    @property
    def name(self) -> str:
        """For people: hosts may be called alike."""
        return f"{self.state.host} ({self.id[:6]})"

    def holds(self, file: str, version: int, fingerprint: str) -> bool:
        return self.state.keys.get(file, {}).get(version) == fingerprint


class RelayRegister(Protocol):
    async def tell(self, id: str, state: RelayState, *, at: datetime) -> None:
        """Keep what a relay tells; forget those that have told nothing for long."""
        ...

    async def relays(self) -> Sequence[Relay]:
        """Return every relay that tells, in the order of their hosts."""
        ...

    async def link_keys(self) -> Fingerprints:
        """Return the keys that links were sealed under; new ones are under the newest."""
        ...

    async def register_link_keys(self, held: Fingerprints, *, at: datetime) -> Fingerprints:
        """Let these count where none does yet; return those that count then."""
        ...

    async def use_link_key(
        self, version: int, fingerprint: str, *, at: datetime, force: bool = False
    ) -> None:
        """Let new links be sealed under a key. Raises NotEverywhere, unless `force`;
        OtherKeyCounts."""
        ...

    async def retire_link_key(self, version: int, *, at: datetime) -> bool:
        """Let no link under a key have to work any more; False where it does not count."""
        ...


def living(relays: Sequence[Relay], now: datetime) -> list[Relay]:
    return [relay for relay in relays if now - relay.at <= SILENT_AFTER]
