"""Where a key file that all relays of a store share is found on this machine.

The first of these that there is: a file that a variable of the environment names, a credential of
systemd (LoadCredential=), a file in state_dir. A variable never holds the key itself: that would be
shown by `docker inspect` and /proc, and inherited by every child.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Set by systemd, for the processes of the unit alone."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """A key file. `why` says what makes it count; `bits` of its mode let too many read it."""

    path: Path
    why: str
    bits: int
    is_credential: bool = False


def variable(name: str) -> str:
    """Return what the variable is called that names the file `name`: suppression.key …"""
    return f"SMTPPROXY_{name.upper().replace('.', '_')}_FILE"


def key_place(state_dir: Path, name: str, *, alone: bool = False) -> KeyPlace:
    """Return the place that counts; that in state_dir where there is none yet.

    `alone`: the folder is a backup, and its own file the only one that is meant.
    Raises:
        StoreMisconfigured: a variable names what is not there, or two places hold other keys.
    """
    if alone:
        return KeyPlace(state_dir / name, "in the backup", 0o077)
    found = _places(state_dir, name)
    chosen = found[0]
    for other in found[1:]:
        if _lines(other.path) != _lines(chosen.path):
            raise StoreMisconfigured(
                f"{chosen.path} ({chosen.why}) and {other.path} ({other.why}) hold other keys; "
                "the first would count: remove one of the two, or make both the same"
            )
    return chosen


def _places(state_dir: Path, name: str) -> list[KeyPlace]:
    """Return those that there are, at least one, the one that counts first."""
    found: dict[Path, KeyPlace] = {}
    named = os.environ.get(variable(name))
    if named:
        path = Path(named)
        if not path.exists():
            raise StoreMisconfigured(f"{variable(name)}: {path} is not there; name the key file")
        found[path] = KeyPlace(path, variable(name), 0o007)
    folder = os.environ.get(CREDENTIALS)
    if folder and (path := Path(folder, name)).exists():
        # systemd gives it to the unit's user by an ACL, which shows as the group's right.
        found.setdefault(path, KeyPlace(path, "a credential of systemd", 0o007, True))
    path = state_dir / name
    if not found or path.exists():
        found.setdefault(path, KeyPlace(path, "in state_dir", 0o077))
    return list(found.values())


def _lines(path: Path) -> list[str]:
    """Return the lines that hold keys, in any order. Raises StoreInaccessible."""
    try:
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise StoreInaccessible(f"{path}: cannot be read ({error.strerror})") from error
    return sorted(line for line in text.splitlines() if line.strip() and line[0] != "#")


def secret_lines(place: KeyPlace, *, what: str, missing: str) -> list[str]:
    """Return the lines of a secret file, comments left out.

    `what` it holds and what to do where it is `missing` are for the text of the fault.
    Raises StoreMisconfigured, StoreInaccessible.
    """
    path = place.path
    try:
        mode = path.stat().st_mode & 0o777
        if mode & place.bits:
            raise StoreMisconfigured(
                f"{path}: mode {mode:04o} lets others read {what}; make it 0600: chmod 600 {path}"
            )
        text = path.read_text("ascii", errors="replace")
    except FileNotFoundError:
        raise StoreMisconfigured(f"{path}: {what} is missing; {missing}") from None
    except OSError as error:
        raise StoreInaccessible(
            f"{path}: cannot be read ({error.strerror}); it must belong to the user that "
            "smtpproxy runs as, mode 0600"
        ) from error
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def not_written(place: KeyPlace, what: str, error: OSError | None = None) -> StoreInaccessible:
    """Return the fault that a key cannot be written where it would be read."""
    if place.is_credential:
        return StoreInaccessible(
            f"{place.path}: {what} cannot be written: a credential of systemd is read only; "
            "change the file that LoadCredential= names, on every machine, and restart the relays"
        )
    why = "it is read only" if error is None else error.strerror
    return StoreInaccessible(
        f"{place.path}: {what} cannot be written ({why}); its folder must be one that "
        "smtpproxy may write to, or change the file where it comes from"
    )
