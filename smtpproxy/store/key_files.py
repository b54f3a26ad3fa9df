"""Files of secret keys, mode 0600: finding those that all relays of a store share on this machine,
and those for the suppressions and for partners.

The first of these counts: a file named by an environment variable, a systemd credential
(LoadCredential=), a file in state_dir. A variable never holds the key itself: `docker inspect` and
/proc would show it, and every child would inherit it.

With a lost or wrong key no suppression would match anybody, so the database has the fingerprints
of its keys and cannot be opened with others. The file for the suppressions has one line for
each live key, the newest last.
"""

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import exists, flush, give_to_owner_of, is_dir, locked, sync_path
from smtpproxy.settings import PartnerSettings
from smtpproxy.store.keys import KeyRing, Partner, SuppressionKey
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Set by systemd, only for the processes of the unit."""
FILE_NAME = "suppression.key"
_PREAMBLE = """\
# The secret key of smtpproxy's suppressions, mode 0600. Keep it secret, and keep a copy:
# without it every stored suppression is void. Line: version, key in hexadecimal.
"""
_PARTNER_PREAMBLE = """\
# A key shared by two partners of smtpproxy, mode 0600: whoever has it can find out which
# addresses a snapshot holds. Line: key in hexadecimal, the same on both sides.
"""
_KEY_LINE = re.compile(r"(\d{1,4}) ([0-9a-f]{64})")
_PARTNER_LINE = re.compile(r"[0-9a-f]{64}")


class KeyPlace(Struct, frozen=True):
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
        if not exists(path):
            raise StoreMisconfigured(f"{variable(name)}: {path} is not there; name the key file")
        found[path] = KeyPlace(path, variable(name), 0o007)
    folder = os.environ.get(CREDENTIALS)
    if folder and exists(path := Path(folder, name)):
        # systemd gives access to the unit's user by an ACL, which shows as a right of the group.
        found.setdefault(path, KeyPlace(path, "a credential of systemd", 0o007, True))
    path = state_dir / name
    if not found or exists(path):
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
        if is_dir(path):
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


def load_keys(state_dir: Path, *, alone: bool = False) -> KeyRing:
    """Read the keys; `alone`: only those in the folder of a backup.

    Raises:
        StoreMisconfigured: there is none, others can read it, or it is not a key.
    """
    found = _secrets(key_place(state_dir, FILE_NAME, alone=alone))
    return KeyRing(SuppressionKey(key, version) for version, key in found.items())


def _secrets(place: KeyPlace) -> dict[int, bytes]:
    """Return the keys of the file by version."""
    lines = secret_lines(
        place,
        what="the key of the suppressions",
        missing="restore it from the backup: without it every stored suppression is void",
    )
    found = [_KEY_LINE.fullmatch(line) for line in lines]
    keys = {int(match[1]): bytes.fromhex(match[2]) for match in found if match}
    if not keys or len(keys) < len(lines):
        raise StoreMisconfigured(
            f"{place.path}: not a key file, which has a line with a version and 64 hexadecimal "
            "digits for each key; restore it from the backup"
        )
    return keys


def load_partner_key(path: Path) -> SuppressionKey:
    """Read the key shared with a partner.

    Raises:
        StoreMisconfigured: there is none, others can read it, or it is not a key.
    """
    lines = secret_lines(
        KeyPlace(path, "key_file", 0o077),
        what="the key shared with a partner",
        missing="make it with smtpproxy partner key, or copy the partner's",
    )
    if len(lines) != 1 or not _PARTNER_LINE.fullmatch(lines[0]):
        raise StoreMisconfigured(
            f"{path}: not the key of a partner; expected one line of 64 hexadecimal digits, "
            "as smtpproxy partner key makes it"
        )
    return SuppressionKey(bytes.fromhex(lines[0]))


def load_partners(settings: Iterable[PartnerSettings]) -> list[Partner]:
    """Return the partners, with their keys. Raises as `load_partner_key` does."""
    return [Partner(one.name, load_partner_key(one.key_file)) for one in settings]


def load_or_create_keys(state_dir: Path) -> KeyRing:
    """Read the keys, or create one if there is none. Safe if two processes start at once."""
    path = key_place(state_dir, FILE_NAME).path
    if not exists(path):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_secret(path, f"{_PREAMBLE}1 {secrets.token_hex(32)}\n")
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise StoreInaccessible(
                f"{path}: the key of the suppressions cannot be made ({error.strerror}); "
                "state_dir must be a folder that smtpproxy may write to"
            ) from error
    return load_keys(state_dir)


def create_partner_key(path: Path, owned_as: Path | None = None) -> SuppressionKey:
    """Make a key to share with a partner; see `create_secret`. Raises FileExistsError, OSError."""
    create_secret(path, f"{_PARTNER_PREAMBLE}{secrets.token_hex(32)}\n", owned_as)
    return load_partner_key(path)


def replacing(state_dir: Path) -> AbstractContextManager[None]:
    """Hold the lock of whoever replaces keys: of two at once, one would remove the other's key."""
    busy = StoreInaccessible("another command is replacing a key; wait until it has ended")
    return locked(state_dir / "keys.lock", busy, makes=True)


def add_key(state_dir: Path, live: Mapping[int, str]) -> KeyRing:
    """Add the next key to the file and return its keys.

    `live` are the fingerprints in the database by version. A newer key left in the file by an
    earlier, interrupted attempt is used; retired keys are removed. Raises StoreMisconfigured,
    StoreInaccessible.
    """
    place = key_place(state_dir, FILE_NAME)
    keys = {v: key for v, key in _secrets(place).items() if v in live or v > max(live)}
    if max(keys) == max(live):
        keys[max(keys) + 1] = secrets.token_bytes(32)
        _replace(place, keys)
    return load_keys(state_dir)


def drop_keys(state_dir: Path, live: Iterable[int]) -> KeyRing:
    """Remove the keys that are no longer live; in a read-only file they stay, and do no harm."""
    place, kept = key_place(state_dir, FILE_NAME), set(live)
    keys = _secrets(place)
    left = {version: key for version, key in keys.items() if version in kept}
    if left and left != keys:
        with suppress(StoreInaccessible):
            _replace(place, left)
    return load_keys(state_dir)


def _replace(place: KeyPlace, keys: Mapping[int, bytes]) -> None:
    """Replace the file atomically."""
    lines = "".join(f"{version} {key.hex()}\n" for version, key in sorted(keys.items()))
    replace_key_file(place, _PREAMBLE + lines, "a key of the suppressions")


def replace_key_file(place: KeyPlace, text: str, what: str) -> None:
    """Replace a key file. Raises StoreInaccessible if it cannot be written."""
    if place.is_credential:
        raise not_written(place, what)
    try:
        replace_secret(place.path, text)
    except OSError as error:
        raise not_written(place, what, error) from error


def replace_secret(path: Path, text: str) -> None:
    """Replace a file atomically, keeping its owner and mode. Raises OSError."""
    for left in path.parent.glob(f"{path.name}.*.aside"):
        if not _is_running(left.name.removeprefix(path.name).split(".")[1]):
            left.unlink(missing_ok=True)  # left by a process that was killed
    with _written_aside(path, text) as aside:
        with suppress(FileNotFoundError):
            aside.chmod(path.stat().st_mode & 0o777)
            give_to_owner_of(path, aside)
        aside.replace(path)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def create_secret(path: Path, text: str, owned_as: Path | None = None) -> None:
    """Create a file atomically, owned as the folder `owned_as` (by default its own) if that exists.

    The first process wins. Raises FileExistsError, OSError.
    """
    with _written_aside(path, text) as aside:
        if owned_as is not None and is_dir(owned_as):
            give_to_owner_of(owned_as, aside)
        path.hardlink_to(aside)


@contextmanager
def _written_aside(path: Path, text: str) -> Iterator[Path]:
    """Write a file under a temporary name, for the caller to move; durable when this ends."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.aside")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            flush(file)
        give_to_owner_of(path.parent, aside)
        yield aside
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    sync_path(path.parent)
