"""The register of the relays that use one store.

It shows whether every relay has a new key, which counts only then, and whether configurations
differ, which makes relays judge the same message differently.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct, field

SILENT_AFTER = timedelta(hours=1)
"""A relay that has been silent for longer is not waited for: it has ended, or cannot reach the
store and accepts no mail. It does not start again without the keys that are in use by then."""
FORGOTTEN_AFTER = timedelta(days=30)

Fingerprints = Mapping[int, str]
"""Fingerprints of keys, by version: they identify the keys without revealing them."""


class RelayState(Struct, frozen=True):
    """What a relay registers. `keys` are fingerprints by key file."""

    host: str
    keys: dict[str, dict[int, str]]
    streams: dict[str, str] = field(default_factory=dict)  # descriptions by name
    brands: tuple[str, ...] = ()


class Relay(Struct, frozen=True):
    """A relay, by its `relay_id`, and what it last registered."""

    id: str
    at: datetime
    state: RelayState

    @property
    def name(self) -> str:
        """A name for people, unique even if hosts have the same name."""
        return f"{self.state.host} ({self.id[:6]})"

    def holds(self, file: str, version: int, fingerprint: str) -> bool:
        return self.state.keys.get(file, {}).get(version) == fingerprint


class RelayRegister(Protocol):
    async def tell(self, id: str, state: RelayState, *, at: datetime) -> None:
        """Register a relay's state; remove relays that have been silent for FORGOTTEN_AFTER."""
        ...

    async def relays(self) -> Sequence[Relay]:
        """Return all registered relays, in the order of their hosts."""
        ...

    async def link_keys(self) -> Fingerprints:
        """Return the keys in use for links; the newest seals new ones."""
        ...

    async def register_link_keys(self, held: Fingerprints, *, at: datetime) -> Fingerprints:
        """Take these into use if there are none; return those in use afterwards."""
        ...

    async def use_link_key(
        self, version: int, fingerprint: str, *, at: datetime, force: bool = False
    ) -> None:
        """Seal new links with a key. Raises NotEverywhere, unless `force`; OtherKeyCounts."""
        ...

    async def retire_link_key(self, version: int, *, at: datetime) -> bool:
        """Stop requiring a key, so that its links no longer work; False if it is not in use."""
        ...


def living(relays: Sequence[Relay], now: datetime) -> list[Relay]:
    return [relay for relay in relays if now - relay.at <= SILENT_AFTER]
