"""Erases a person (RGPD 17) everywhere: store, feedback mailbox, audit logs of all relays."""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import is_dir
from smtpproxy.mail.address import AddressError, readings
from smtpproxy.mail.mailboxes import entered
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.erase import StillWritten, addressed, pseudonymise
from smtpproxy.store import open_feedback, open_journals
from smtpproxy.store.import_jobs import ImportJobs
from smtpproxy.store.journals import Behind, Outstanding, PersonKey, SharedJournals
from smtpproxy.store.key_files import replace_secret
from smtpproxy.store.maildir import Maildir, reports_about
from smtpproxy.store.operations import former_addresses
from smtpproxy.store.register import known_relay_id, relay_id
from smtpproxy.store.sql.store import Store

_SOON = 5.0
"""Seconds after which other relays, which check once a second, are reported as behind."""
_LOOK = 0.5
_THERE = timedelta(minutes=1)
"""A relay silent for longer is not running."""
_GONE = timedelta(days=30)
"""A relay silent for longer is gone for ever, with its disk."""
CARRIED_OUT = "erased"
"""The file beside the journal with the number of the last erasure in the store that was carried out
in it. A journal restored from a copy is therefore behind the store."""


class Erasure(Struct, frozen=True):
    """What was erased."""

    erased: bool  # False: there was no contact
    reports: int
    rows: int  # of the audit log
    left: str | None = None  # what could not be erased yet, and why
    behind: tuple[str, ...] = ()  # relays that will erase it from their audit logs


async def others_of(store: Store, address: str) -> Sequence[str]:
    """Return the addresses that may be the same person's, and that erasing a canonical one leaves.

    Former ones are on record with the contact, so they are known only until it is erased. Raises
    StoreUnavailable.
    """
    others = [
        *await store.variants(address),
        *former_addresses(await store.rectifications(address)),
        *await store.moved_to(address),
    ]
    return list(dict.fromkeys(others))


async def erase(
    settings: Settings,
    store: Store,
    address: str,
    *,
    at: datetime,
    scope: str,
    keep_record: bool = False,
) -> Erasure:
    """Erase a canonical address and leave a suppression of that scope.

    The audit log is rewritten in a thread, unless it is kept as proof (RGPD 17(3)(e)). Calling it
    again erases what was left. Raises StoreUnavailable, OSError.
    """
    erased = await store.erase_contact(address, at=at, scope=scope)
    reports = await forget_reports(settings, address)
    rows, left = 0, None
    behind: tuple[str, ...] = ()
    try:
        if not keep_record:
            rows, behind = await erase_record(settings, address, at)
    except StillWritten as error:
        left = str(error)
    return Erasure(erased, reports, rows, left, behind)


async def erase_record(
    settings: Settings, address: str, at: datetime
) -> tuple[int, tuple[str, ...]]:
    """Erase a canonical address from the audit log, here and on all relays of the store.

    Returns how many rows were about it here, and which relays have yet to follow. Raises
    StillWritten, StoreUnavailable, OSError.
    """
    journals = open_journals(settings.store)
    if journals is None:
        return await asyncio.to_thread(_from_audit_log, settings, address), ()
    with contextlib.closing(journals):
        folder, key = settings.server.state_dir / "audit", await journals.key()
        written = await asyncio.to_thread(_those_of, folder, frozenset({key(address)}), key)
        for other in written.keys() - {address}:  # the index has their own hashes
            await journals.add_erasure(other, at)
        number = await journals.add_erasure(address, at)
        rows = await asyncio.to_thread(_from_audit_log, settings, address)
        return rows, await _behind(settings, journals, number, at)


async def _behind(
    settings: Settings, journals: SharedJournals, number: int, at: datetime
) -> tuple[str, ...]:
    """Return the relays that are behind, after giving running ones some seconds."""
    own = known_relay_id(settings.server.state_dir)
    waited = 0.0
    while True:
        left = await _left(journals, number, own, at)
        if waited >= _SOON or not any(at - one.told_at < _THERE for one in left):
            return _named(left)
        await asyncio.sleep(_LOOK)
        waited += _LOOK


async def _left(
    journals: SharedJournals, number: int, own: str | None, at: datetime
) -> list[Behind]:
    behind = await journals.behind(number)
    return [one for one in behind if one.relay != own and at - one.told_at < _GONE]


async def erase_outstanding(settings: Settings, at: datetime) -> tuple[int, tuple[str, ...]]:
    """Erase from this relay's audit log everybody whom other relays of the store have erased,
    before it leaves that store.

    Returns how many rows were about them, and which relays have yet to do the same. Raises
    StillWritten, StoreUnavailable, OSError.
    """
    journals = open_journals(settings.store)
    if journals is None:
        return 0, ()
    with contextlib.closing(journals):
        own = relay_id(settings.server.state_dir)
        rows = await carry_out(settings, journals, own, contextlib.nullcontext)
        newest = (await journals.outstanding("", 0)).newest
        return rows, _named(await _left(journals, newest, own, at))


def _named(relays: Sequence[Behind]) -> tuple[str, ...]:
    return tuple(f"{one.host} ({one.relay})" for one in relays)


async def carry_out(
    settings: Settings,
    journals: SharedJournals,
    relay: str,
    alone: Callable[[], AbstractAsyncContextManager[None]],
) -> int:
    """Erase from this relay's disk everybody whom others have erased.

    That is from the audit log, of which it returns how many rows, and from what imports over the
    API have rejected. Their rows in the index are anonymised within `alone`, while nobody can add
    any. Raises StillWritten, StoreUnavailable, OSError: the next call erases what is left.
    """
    folder = settings.server.state_dir / "audit"
    outstanding = await journals.outstanding(relay, _carried_out(folder))
    if not outstanding.newest:
        return 0
    key = await journals.key()
    found = await asyncio.to_thread(_those_of, folder, outstanding.people, key)
    rows = 0
    for address in set(found.values()):
        rows += await asyncio.to_thread(pseudonymise, folder, address)
    names = partial(_names, outstanding.people, key)
    await asyncio.to_thread(ImportJobs(settings.server.state_dir).forget_those, names)
    people = outstanding.people.union(map(key, found))
    async with alone():
        await journals.carried_out(relay, Outstanding(outstanding.newest, people))
    if is_dir(folder):
        replace_secret(folder / CARRIED_OUT, f"{outstanding.newest}\n")
    return rows


def _carried_out(folder: Path) -> int:
    try:
        return int((folder / CARRIED_OUT).read_bytes()[:20])
    except (FileNotFoundError, ValueError):
        return 0


def _those_of(folder: Path, people: frozenset[bytes], key: PersonKey) -> Mapping[str, str]:
    """Return the addresses in a journal that are these people's, each with its canonical form."""
    found: dict[str, str] = {}
    last = ""
    for address in addressed(folder):
        if address != last:  # copies of one mailing are adjacent
            last = address
            for name in (address, *readings(address)):
                if key(name) in people:
                    found[address] = name
    return found


_BETWEEN = re.compile(r'[\s"<>(),;:\[\]\\]+')
_LONGEST = 1_000  # characters of what may be an address
_MARK = re.compile(r"[^\w.@-]")  # an address may contain it, and a mapping name it as delimiter


def _names(people: frozenset[bytes], key: PersonKey, lines: bytes) -> bool:
    """Whether lines of a file of any form name one of these people."""
    for text in _BETWEEN.split(lines.decode("utf-8", "surrogateescape")):
        if "@" not in text or len(text) > _LONGEST:
            continue
        cells = chain([text], *(text.split(mark) for mark in set(_MARK.findall(text))))
        for cell in cells:
            with contextlib.suppress(AddressError):
                address = entered(cell)
                if any(key(name) in people for name in (address, *readings(address))):
                    return True
    return False


def _from_audit_log(settings: Settings, address: str) -> int:
    folder = settings.server.state_dir / "audit"
    with contextlib.suppress(FileNotFoundError):  # nothing has been decided yet
        os.scandir(folder).close()  # an unreadable folder would look empty
    return pseudonymise(folder, address)


async def forget_reports(settings: Settings, address: str) -> int:
    """Remove the reports about a canonical address, and unprocessed ones that name it.

    The lines that imports over the API rejected go as well. Returns how many reports.
    Raises StoreUnavailable, OSError.
    """
    await asyncio.to_thread(ImportJobs(settings.server.state_dir).forget, address)
    mailbox = known_relay_id(settings.server.state_dir) or ""
    log, maildir = open_feedback(settings.store, mailbox), Maildir(settings.feedback_dir)
    with contextlib.closing(log):
        gone = {one.id for one in await reports_about(log, maildir, address)}
        gone.update(await log.forget(address))
        await log.remove(sorted(gone))
        maildir.remove(gone)
    return len(gone)
