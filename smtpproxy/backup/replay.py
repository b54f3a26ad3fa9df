"""Replaying the changes since a backup from the journal of changes."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import get_args

from msgspec import Struct

from smtpproxy.backup.journals import (
    Journals,
    erase_from_copy,
    missing_changes,
    missing_decisions,
    trust,
    unconfirmed,
    written_since,
)
from smtpproxy.backup.mailed import count_again
from smtpproxy.backup.restoring import Pending, lost_snapshots, pending
from smtpproxy.policy.breaker import MARKETING, RESTORE
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    ConsentAct,
    Contact,
    Frequency,
    Origin,
    Preference,
)
from smtpproxy.policy.rules.deferrals import restore_in_force
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import RestoredRow
from smtpproxy.sinks.audit.chain import Head
from smtpproxy.sinks.audit.reader import read
from smtpproxy.store.change_journal import FOLDER, Change, Journal, JournalGap, Refusal
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.merge import newest_preferences, withdrawn_scope
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.store.streams import PERSON, StreamEvent
from smtpproxy.terminal import counted

_AT_ONCE = 2_000
_LIFTED = "lifted before the restore"
_Order = tuple[str, str, str]
"""Key text, scope and origin of a suppression."""
_REFUSALS = get_args(Refusal)


class Statement(Struct, frozen=True):
    """An operator's statement about the journals that nothing else can prove."""

    by: str
    reason: str


class Replayed(Struct):
    """What was replayed. `gaps` say what is missing; marketing is held back if there is any."""

    waiting: Pending
    changes: int = 0
    until: datetime | None = None  # of the newest change that was read
    suppressed: int = 0
    lifted: int = 0
    withdrawn: int = 0
    refused: int = 0  # contacts who were restricted, want less, or object to profiling
    erased: int = 0
    undone: int = 0  # imports
    paused: int = 0  # streams and brands
    mailed: int = 0  # messages counted again, for caps and one-time questions
    gaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Found(Struct):
    """The state at the end of the journal."""

    suppressions: dict[_Order, datetime]
    lifted: dict[_Order, datetime]
    erased: dict[str, tuple[datetime, str]]
    refusals: dict[str, list[Change]]


async def waiting_restore(store: Store) -> Pending | None:
    """Return the restore whose journal is yet to be replayed.

    Raises StoreUnavailable, BackupFault.
    """
    pause = restore_in_force(await store.pauses())
    return None if pause is None else pending(pause)


async def replay(
    settings: Settings,
    store: Store,
    waiting: Pending,
    journals: Journals,
    now: Callable[[], datetime],
    *,
    kept: Sequence[Head] = (),
    whole: Statement | None = None,
) -> Replayed:
    """Replay the journal of changes since the backup; if it is complete, resume marketing.

    If something is missing, only what stops mail is replayed, and marketing stays held back. A copy
    is complete if an operator says so, and no anchor, here or `kept` elsewhere, shows more. Raises
    StoreUnavailable, OSError.
    """
    done = Replayed(waiting)
    ring = load_keys(settings.server.state_dir)
    known = {key.fingerprint for key in ring.keys}
    own = settings.server.state_dir / FOLDER
    changes, gaps = _changes(journals, own, waiting, known, kept, whole)
    until = max((one.at for one in changes), default=None)
    mine = [one for one in changes if one.key and _fingerprint(one.key) in known]
    found = _gathered(mine, lifting=not gaps)
    done.changes, done.until, done.gaps = len(changes), until, tuple(gaps)
    done.notes = tuple(
        note for folder in journals.folders for note in missing_decisions(folder, waiting.audit)
    )
    if journals.left:
        done.notes += (
            f"{counted(journals.left, 'file')} of decisions not copied: the journals here have"
            " continued on their own. Keep that copy of the journals: it proves those decisions",
        )
    done.notes += tuple(await lost_snapshots(settings, store, waiting))
    events = [one for one in changes if not one.key]
    await _imports(store, events, done, now, lifting=not gaps)
    await _people(settings, store, ring, found, done, now)
    await _orders(store, found, done, now)
    await _pauses(store, events, done, now, lifting=not gaps)

    def erased(addresses: Collection[str]) -> Collection[str]:
        return _named(ring, found.erased, addresses).values()

    done.mailed = await count_again(settings, journals.folders, waiting, erased)
    if not gaps:
        stated = whole or Statement("", "")
        row = partial(RestoredRow, what="replayed", of=waiting.taken_at, replayed=done.changes)
        anchors.note(own, now, partial(row, by=stated.by, reason=stated.reason))
        trust(own)
        await store.note_stream(StreamEvent(now(), MARKETING, "resumed", RESTORE))
    return done


def _changes(
    journals: Journals,
    own: Path,
    waiting: Pending,
    known: Set[str],
    kept: Sequence[Head],
    whole: Statement | None,
) -> tuple[list[Change], list[str]]:
    """Return the changes since the backup, and which of them are missing or cannot be read.

    `known` are the fingerprints of the backup's keys.
    """
    begin, journal, gaps = waiting.changes, Journal(journals.changes), []
    try:
        lines = list(journal.after(begin))
    except JournalGap as gap:
        lines, gaps = list(journal.readable(begin.n)), [str(gap)]
    changes = [line.change for line in lines]
    ours = frozenset() if waiting.at is None else written_since(own, waiting.at, begin)
    gaps += missing_changes(journals, begin, lines, kept, whole=not gaps, ours=ours)
    strange = [one for one in changes if one.key and _fingerprint(one.key) not in known]
    if strange:
        names = ", ".join(sorted({_fingerprint(one.key) for one in strange}))
        gaps.append(
            f"{len(strange)} changes are under the key {names}, which the backup does not have:"
            " it was taken before the keys were renewed; restore one taken after that"
        )
    if journals.is_copy and whole is None and not gaps:
        end, at = (lines[-1].n, lines[-1].change.at) if lines else (begin.n, waiting.taken_at)
        gaps.append(unconfirmed(journals, own, end, at))
    return changes, gaps


async def give_up(
    settings: Settings,
    store: Store,
    waiting: Pending,
    stated: Statement,
    now: Callable[[], datetime],
) -> None:
    """Resume marketing although the changes since the backup are lost; record who decided it."""
    audit = settings.server.state_dir / FOLDER
    row = partial(RestoredRow, what="lost", of=waiting.taken_at)
    anchors.note(audit, now, partial(row, by=stated.by, reason=stated.reason))
    trust(audit)
    await store.note_stream(
        StreamEvent(now(), MARKETING, "resumed", PERSON, reason=f"{stated.by}: {stated.reason}")
    )


def _gathered(changes: Iterable[Change], *, lifting: bool) -> _Found:
    """Return the state at the end; unless `lifting`, liftings are ignored."""
    found = _Found({}, {}, {}, {})
    for one in changes:
        order = one.key, one.scope, one.origin
        if one.since is None:
            continue
        if one.action in _REFUSALS:
            found.refusals.setdefault(one.key, []).append(one)
        elif one.action == "lifted":
            if lifting:
                found.suppressions.pop(order, None)
                found.lifted[order] = one.since
        else:
            found.suppressions[order] = max(one.since, found.suppressions.get(order, one.since))
            found.lifted.pop(order, None)
            if one.origin == Origin.ERASURE:
                found.erased[one.key] = one.since, one.scope
    return found


async def _people(
    settings: Settings,
    store: Store,
    ring: KeyRing,
    found: _Found,
    done: Replayed,
    now: Callable[[], datetime],
) -> None:
    """Erase contacts that were erased, and record the refusals of others. Without a contact, the
    refusals become suppressions, so that a later import cannot revive the person."""
    gone = _named(ring, found.erased, _recorded(settings, found.erased))
    left = dict(found.refusals)
    if found.erased or found.refusals:
        async for addresses in store.contact_addresses():
            for key, address in _named(ring, found.erased, addresses).items():
                at, scope = found.erased[key]
                done.erased += await store.erase_contact(address, at=at, scope=scope)
                gone[key] = address
            for key, address in _named(ring, found.refusals, addresses).items():
                refused = left.pop(key, [])
                if key not in found.erased:
                    await _refuse(store, address, refused, done)
    for key, refused in left.items():
        for scope, origin, at in suppressions_for(refused):
            order = key, scope, str(origin)
            found.suppressions[order] = max(at, found.suppressions.get(order, at))
            done.withdrawn += 1
    since = {address: found.erased[key][0] for key, address in gone.items()}
    done.notes += tuple(erase_from_copy(settings.server.state_dir / FOLDER, since, now()))


async def _refuse(store: Store, address: str, refused: Sequence[Change], done: Replayed) -> None:
    for act in _withdrawals(refused):
        done.withdrawn += await store.record_act(address, act)
    known = await store.contact(address)
    if known is not None and (update := _update(known, refused)) is not None:
        done.refused += not (await store.put_contacts([update])).unchanged


async def _orders(store: Store, found: _Found, done: Replayed, now: Callable[[], datetime]) -> None:
    entries = [
        SuppressionEntry(key, scope, Origin(origin), since)
        for (key, scope, origin), since in found.suppressions.items()
    ]
    for start in range(0, len(entries), _AT_ONCE):
        result = await store.add_suppressions(entries[start : start + _AT_ONCE])
        done.suppressed += result.added + result.changed
    for (key, scope, origin), since in found.lifted.items():
        lifted = await store.remove_suppression(  # one renewed since the restore stays
            key, at=now(), reason=_LIFTED, scope=scope, origin=Origin(origin), up_to=since
        )
        done.lifted += len(lifted)


async def _imports(
    store: Store,
    events: Iterable[Change],
    done: Replayed,
    now: Callable[[], datetime],
    *,
    lifting: bool,
) -> None:
    """Undo the imports that were undone, so that their people do not come back with the backup."""
    known = {one.id: one for one in await store.imports()}
    for id in dict.fromkeys(one.id for one in events if one.action == "import_undone"):
        record = known.get(id)
        if record is None or record.state == "undone":
            continue
        if record.kind == "suppressions" and not lifting:
            continue
        while await store.undo_import(id, at=now(), by="restore") is not None:
            pass
        done.undone += 1


async def _pauses(
    store: Store,
    events: Iterable[Change],
    done: Replayed,
    now: Callable[[], datetime],
    *,
    lifting: bool,
) -> None:
    last: dict[str, Change] = {}
    for one in events:
        if one.action == "paused" or (one.action == "resumed" and lifting):
            last[one.scope] = one
    paused_at = {pause.subject: pause.at for pause in await store.pauses()}
    for subject, one in last.items():
        if one.action == "resumed":
            if paused_at.get(subject, one.at) > one.at:
                continue  # paused since the restore
            await store.note_stream(StreamEvent(now(), subject, "resumed", one.origin))
        elif one.since is None or one.since > now():
            paused = StreamEvent(now(), subject, "paused", one.origin, until=one.since)
            done.paused += await store.note_stream(paused)


def _named(ring: KeyRing, keys: Iterable[str], addresses: Iterable[str]) -> dict[str, str]:
    """Return the addresses that have one of the keys, by key text."""
    wanted = set(keys)
    if not wanted:
        return {}
    named = {}
    for address in addresses:
        for key in ring.keys:
            text = key.text(key.pair(address))
            if text in wanted:
                named[text] = address
    return named


def _recorded(settings: Settings, erased: Iterable[str]) -> Sequence[str]:
    """Return the addresses in the audit log, unless nobody has to be erased."""
    if not list(erased):
        return ()
    audit = settings.server.state_dir / FOLDER
    names = {each.canonical for one in read(audit) for each in one.decided.recipients}
    return [name for name in names if "@" in name]


def _fingerprint(key: str) -> str:
    return key.partition("hmac:")[2][:8]


def _withdrawals(refused: Iterable[Change]) -> Sequence[ConsentAct]:
    """Return the withdrawals among the changes of one contact, each once."""
    acts = [
        ConsentAct(one.purpose, one.since, withdrawal=True, brand=one.brand)
        for one in refused
        if one.action == "withdrawn" and one.since is not None
    ]
    return tuple(dict.fromkeys(acts))


def _update(known: Contact, refused: Sequence[Change]) -> ContactUpdate | None:
    """Return the other changes of a contact, or None. All of them mean less mail, except a wish
    that the person has withdrawn since."""
    tags = frozenset(one.tag for one in refused if one.action == "restricted")
    objected = [one.since for one in refused if one.action == "profiling_objected" and one.since]
    wishes = tuple(_wishes(refused))
    if not (tags or objected or wishes):
        return None
    contact = Contact(
        known.address,
        tags=known.tags | tags,
        profiling_objected_at=min(objected, default=None),
        preferences=wishes,
    )
    given = frozenset({"tags"} if tags else ())
    return ContactUpdate(contact, given, restricted_tags=tags)


def suppressions_for(refused: Sequence[Change]) -> Iterator[tuple[str, Origin, datetime]]:
    """Yield scope, origin and time of the suppressions that replace refusals without a contact."""
    for one in refused:
        if one.since is None:
            continue
        if one.action == "withdrawn":
            yield withdrawn_scope(one.purpose, one.brand), Origin.UNSUBSCRIBE, one.since
        elif one.action == "restricted":
            yield "marketing", Origin.MANUAL, one.since
        elif one.action == "profiling_objected":
            yield "marketing", Origin.OBJECTION, one.since
    for wish in newest_preferences(_wishes(refused)):
        if wish.frequency is not Frequency.ALL:
            yield f"purpose:{wish.purpose}", Origin.UNSUBSCRIBE, wish.at


def _wishes(refused: Iterable[Change]) -> Iterator[Preference]:
    for one in refused:
        if one.action == "wished" and one.since is not None and one.frequency is not None:
            yield Preference(one.purpose, one.frequency, one.since, one.brand or BUILT_IN_BRAND)
