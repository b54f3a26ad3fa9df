"""Checking that the keys and the configuration of this machine fit the store, its rows and the
other relays that use it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.policy.model import BUILT_IN_BRAND, EVERY_PURPOSE, Stream
from smtpproxy.settings import Settings
from smtpproxy.store.key_files import FILE_NAME, key_place, load_keys
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    ensure_link_keys,
    has_link_keys,
    load_link_keys,
    note_sealing,
)
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.register import Fingerprints, Relay, RelayState, known_relay_id, living
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted


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


class Misfit(Struct, frozen=True):
    """Something that does not fit: its name, the consequence, and the remedy. `fails`: until then
    writes fail."""

    subject: str
    text: str
    fix: str
    fails: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}; {self.fix}"


def state_of(settings: Settings) -> RelayState:
    """Return the state that a relay with these settings registers for the others."""
    return RelayState(
        settings.server.hostname,
        held_keys(settings.server.state_dir),
        {name: _described(stream) for name, stream in settings.streams.items()},
        tuple(sorted(settings.brand_names)),
    )


def _described(stream: Stream) -> str:
    parts = [str(stream.stream_class), f"rulebook {stream.rulebook}", f"brand {stream.brand}"]
    return ", ".join([*parts, *([f"purpose {stream.purpose}"] if stream.purpose else [])])


async def of_rows(settings: Settings, store: Store) -> list[Misfit]:
    """Return names in the rows that are not configured. Raises StoreUnavailable."""
    return await of_scopes(settings, store) + await of_consents(settings, store)


async def of_scopes(settings: Settings, store: Store) -> list[Misfit]:
    """Return brands and purposes of suppressions and wishes that are not configured.

    Raises StoreUnavailable.
    """
    scopes = settings.scopes
    suppressed = await store.named_scopes()
    wished: Counter[str] = Counter()
    for (brand, purpose), n in (await store.named_wishes()).items():
        if brand != BUILT_IN_BRAND and not scopes.knows(f"brand:{brand}"):
            wished[f"brand:{brand}"] += n
        elif not scopes.knows(f"purpose:{purpose}"):
            wished[f"purpose:{purpose}"] += n
    lost = {scope for scope, n in suppressed.items() if n and not scopes.knows(scope)}
    return [
        _scope(name, suppressed.get(name, 0), wished[name]) for name in sorted(lost | {*wished})
    ]


async def of_consents(settings: Settings, store: Store) -> list[Misfit]:
    """Return purposes of consents that no stream has. Raises StoreUnavailable."""
    lost = set(await store.consent_purposes()) - settings.purposes - {EVERY_PURPOSE}
    return [_purpose(name) for name in sorted(lost)]


_LOST = {"brand": "a brand that has no [[brand]]", "purpose": "a purpose that no stream has"}
_STOPPED = {"brand": "the marketing of every brand", "purpose": "nothing"}


def _scope(scope: str, suppressions: int, wishes: int) -> Misfit:
    kind = scope.partition(":")[0]
    rows, effects = [], []
    if suppressions:
        rows.append(counted(suppressions, "suppression"))
        effects.append(f"{'they' if not wishes else 'suppressions'} stop {_STOPPED[kind]}")
    if wishes:
        rows.append(f"{counted(wishes, 'wish', 'wishes')} for less mail")
        effects.append(f"{'they' if not suppressions else 'wishes'} have no effect")
    text = f"{' and '.join(rows)} for {_LOST[kind]}: {', '.join(effects)}"
    move = f'smtpproxy suppress move "{scope}" {kind}:NAME'
    return Misfit(scope, text, f"if it was renamed: {move}; otherwise leave them")


def _purpose(name: str) -> Misfit:
    text = "consent was recorded for it, but no stream has that purpose: it permits nothing"
    return Misfit(f'purpose "{name}"', text, "give a stream the purpose that people agreed to")


async def of_relays(settings: Settings, store: Store, *, now: datetime) -> list[Misfit]:
    """Return how the configurations of other live relays differ. Raises StoreUnavailable."""
    others = living(await store.relays(), now)
    own = known_relay_id(settings.server.state_dir)
    mine = state_of(settings)
    return [misfit for each in others if each.id != own for misfit in _of_relay(mine, each)]


def _of_relay(mine: RelayState, other: Relay) -> Sequence[Misfit]:
    found = [
        *_between("stream", mine.streams, other.state.streams),
        *_between("brand", dict.fromkeys(mine.brands, ""), dict.fromkeys(other.state.brands, "")),
    ]
    return [Misfit(f"relay {other.name}", text, _FIX) for text in found]


def _between(what: str, here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    return [
        *(f'lacks {what} "{name}" of this one' for name in sorted(here.keys() - there.keys())),
        *(
            f'has {what} "{name}", but this one lacks it'
            for name in sorted(there.keys() - here.keys())
        ),
        *(
            f'{what} "{name}" is {there[name]} there, but {here[name]} here'
            for name in sorted(here.keys() & there.keys())
            if here[name] != there[name]
        ),
    ]


_FIX = "they judge the same mail differently: give both the same configuration, and reload"
