"""Checking that this machine and all others have the keys that the relays of a store need."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from smtpproxy.store.key_files import FILE_NAME, load_keys
from smtpproxy.store.key_places import key_place
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    ensure_link_keys,
    has_link_keys,
    load_link_keys,
    note_sealing,
)
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.register import Fingerprints
from smtpproxy.store.sql.store import Store


def held_keys(state_dir: Path) -> dict[str, dict[int, str]]:
    """Return the fingerprints of the keys on this machine, none for a file that cannot be read."""
    found: dict[str, dict[int, str]] = {FILE_NAME: {}, LINK_KEY_FILE: {}}
    with suppress(StoreMisconfigured):
        found[FILE_NAME] = {key.version: key.fingerprint for key in load_keys(state_dir).keys}
    with suppress(StoreMisconfigured):
        found[LINK_KEY_FILE] = _links_here(state_dir)
    return found


def _links_here(state_dir: Path) -> dict[int, str]:
    if not has_link_keys(state_dir):
        return {}
    return {version: key.fingerprint for version, key in load_link_keys(state_dir).items()}


async def check_suppression_keys(store: Store, state_dir: Path) -> None:
    """Raise StoreMisconfigured unless this machine has every live key of the suppressions."""
    known = await store.keys()  # first: of a store that is away, keys are not the trouble
    here = {key.version: key.fingerprint for key in load_keys(state_dir).keys}
    for key in known:
        if here.get(key.version) != key.fingerprint:
            raise StoreMisconfigured(
                f"{key_place(state_dir, FILE_NAME).path}: key {key.version} of the suppressions "
                f"({key.fingerprint}) is missing or different: copy {FILE_NAME} from a relay that "
                "has it, or from the backup; until then mail is answered 451"
            )


async def settle_link_keys(store: Store, state_dir: Path, *, at: datetime) -> bool:
    """Create a store's first key of links, or check that this machine has those in use.

    Returns whether one was created. Raises StoreMisconfigured if one is missing or different.
    """
    made = False
    used = await store.link_keys()
    if not used:
        made = ensure_link_keys(state_dir, at.date())
        used = await store.register_link_keys(_links_here(state_dir), at=at)
    await check_link_keys(store, state_dir, used)
    note_sealing(state_dir, max(used))
    return made


async def check_link_keys(store: Store, state_dir: Path, used: Fingerprints) -> None:
    """Raise StoreMisconfigured unless this machine has every key of links in use."""
    held = _links_here(state_dir)
    wrong = {version: name for version, name in used.items() if held.get(version) != name}
    if not wrong:
        return
    version, name = next(iter(wrong.items()))
    relays = [each for each in await store.relays() if each.holds(LINK_KEY_FILE, version, name)]
    having = f"relay {relays[0].name}" if relays else "a relay that has it, or from the backup"
    path = key_place(state_dir, LINK_KEY_FILE).path
    what = f"differs ({held[version]})" if version in held else "is missing"
    raise StoreMisconfigured(
        f"{path}: key {version} of links ({name}) {what}: links sealed with it would not work "
        f"here; copy {LINK_KEY_FILE} from {having}. If none of them has to work any more: "
        f"smtpproxy unsubscribe retire {version}"
    )
