"""Finding the key files that all relays of a store share on this machine.

The first of these counts: a file named by an environment variable, a systemd credential
(LoadCredential=), a file in state_dir. A variable never holds the key itself: `docker inspect` and
/proc would show it, and every child would inherit it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Set by systemd, only for the processes of the unit."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """A key file. `why` says where it comes from; its mode must have none of `bits`."""

    path: Path
    why: str
    bits: int
    is_credential: bool = False


def variable(name: str) -> str:
    """Return the name of the environment variable for a key file such as suppression.key."""
    return f"SMTPPROXY_{name.upper().replace('.', '_')}_FILE"


def key_place(state_dir: Path, name: str, *, alone: bool = False) -> KeyPlace:
    """Return the place that counts, or that in state_dir if there is no key yet.

    `alone`: the folder is a backup, and only its own file counts.

    Raises:
        StoreMisconfigured: a variable names a missing file, or two places have different keys.
    """
    if alone:
        return KeyPlace(state_dir / name, "in the backup", 0o077)
    found = _places(state_dir, name)
    chosen = found[0]
    for other in found[1:]:
        if _lines(other.path) != _lines(chosen.path):
            raise StoreMisconfigured(
                f"{chosen.path} ({chosen.why}) and {other.path} ({other.why}) hold different keys; "
                "remove one of the two (the first would count), or make both the same"
            )
    return chosen


def _places(state_dir: Path, name: str) -> list[KeyPlace]:
    """Return at least one place, the one that counts first."""
    found: dict[Path, KeyPlace] = {}
    named = os.environ.get(variable(name))
    if named:
        path = Path(named)
        if not path.exists():
            raise StoreMisconfigured(f"{variable(name)}: {path} is not there; name the key file")
        found[path] = KeyPlace(path, variable(name), 0o007)
    folder = os.environ.get(CREDENTIALS)
    if folder and (path := Path(folder, name)).exists():
        # systemd gives access to the unit's user by an ACL, which shows as a right of the group.
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
    """Return the lines of a secret file without comments.

    `what` it holds, and what to do if it is `missing`, are for the text of faults.
    Raises StoreMisconfigured, StoreInaccessible.
    """
    path = place.path
    try:
        if path.is_dir():
            raise StoreMisconfigured(f"{path}: a folder, not the file of {what}")
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
    """Return the fault for a key that cannot be written to its place."""
    if place.is_credential:
        return StoreInaccessible(
            f"{place.path}: {what} cannot be written: a systemd credential is read-only; "
            "change the file that LoadCredential= names, on every machine, and restart the relays"
        )
    why = "it is read-only" if error is None else error.strerror
    return StoreInaccessible(
        f"{place.path}: {what} cannot be written ({why}); make its folder writable for smtpproxy, "
        "or change the file at its origin"
    )
