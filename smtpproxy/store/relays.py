"""The ids of the relays of one store, as host names may be the same, or change."""

import re
import secrets
from contextlib import suppress
from pathlib import Path

from smtpproxy.store.key_files import create_secret

FILE_NAME = "relay.id"

_ID = re.compile(r"[0-9a-f]{16}")


def relay_id(state_dir: Path) -> str:
    """Return the id of the relay whose journals are in this folder; create it with the first use.

    It moves with the journals: their progress is stored under it. Raises OSError.
    """
    path = state_dir / FILE_NAME
    with suppress(FileNotFoundError):
        return _read(path)
    with suppress(FileExistsError):
        create_secret(path, secrets.token_hex(8) + "\n")
    return _read(path)


def known_relay_id(state_dir: Path) -> str | None:
    """Return the id if there is one. Raises OSError."""
    try:
        return _read(state_dir / FILE_NAME)
    except FileNotFoundError:
        return None


def _read(path: Path) -> str:
    text = path.read_bytes()[:64].decode("ascii", "replace").strip()
    if not _ID.fullmatch(text):
        raise OSError(f"{path}: not the id of a relay; remove the file to get a new one")
    return text
