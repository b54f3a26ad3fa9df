"""The register of the relays that use one store, and the ids by which it knows them.

It shows whether every relay has a new key, which counts only then, and whether configurations
differ, which makes relays judge the same message differently.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from msgspec import Struct, field

from smtpproxy.store.key_files import create_secret
from smtpproxy.store.link_keys import LINK_KEY_FILE
from smtpproxy.store.records import StoreUnavailable

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


class NotEverywhere(StoreUnavailable):
    """Not every relay has a new key yet, so it is not used."""

    def __init__(self, file: str, version: int, relays: Sequence[Relay]) -> None:
        names = ", ".join(relay.name for relay in relays)
        super().__init__(
            f"key {version} is in {file} on this machine, but not yet on {names}: copy the file "
            "there, and run the same command again after some seconds, when they have read it, or "
            "with --force, if a relay will not come back. Until then the new key is not used"
        )


class OtherKeyCounts(StoreUnavailable):
    """Another machine made a key of the same version, and that one is used."""

    def __init__(self, version: int, counts: str, having: Sequence[Relay]) -> None:
        where = f"relay {having[0].name}" if having else "the machine that made it"
        super().__init__(
            f"key {version} of links ({counts}) was just made on another machine, and is used "
            f"instead of the one made here; copy {LINK_KEY_FILE} from {where}"
        )


def living(relays: Sequence[Relay], now: datetime) -> list[Relay]:
    return [relay for relay in relays if now - relay.at <= SILENT_AFTER]


_ID_FILE = "relay.id"
"""The file with the id of a relay, as host names may be the same, or change."""
_ID = re.compile(r"[0-9a-f]{16}")


def relay_id(state_dir: Path) -> str:
    """Return the id of the relay whose journals are in this folder; create it with the first use.

    It moves with the journals: their progress is stored under it. Raises OSError.
    """
    path = state_dir / _ID_FILE
    with suppress(FileNotFoundError):
        return _read_id(path)
    with suppress(FileExistsError):
        create_secret(path, secrets.token_hex(8) + "\n")
    return _read_id(path)


def known_relay_id(state_dir: Path) -> str | None:
    """Return the id if there is one. Raises OSError."""
    try:
        return _read_id(state_dir / _ID_FILE)
    except FileNotFoundError:
        return None


def _read_id(path: Path) -> str:
    text = path.read_bytes()[:64].decode("ascii", "replace").strip()
    if not _ID.fullmatch(text):
        raise OSError(f"{path}: not the id of a relay; remove the file to get a new one")
    return text
