"""Erases a person (RGPD 17) everywhere: store, feedback mailbox, audit log."""

import asyncio
import contextlib
import os
from datetime import datetime

from msgspec import Struct

from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.erase import StillWritten, pseudonymise
from smtpproxy.store.erasing import forget_reports
from smtpproxy.store.operations import former_addresses
from smtpproxy.store.protocols import Store


class Erasure(Struct, frozen=True):
    """What was erased. `others` are addresses that may be the same person's and are not."""

    erased: bool  # False: there was no contact
    reports: int
    rows: int  # of the audit log
    others: tuple[str, ...] = ()
    left: str | None = None  # what could not be erased yet, and why


async def erase(
    settings: Settings, store: Store, address: str, *, at: datetime, scope: str
) -> Erasure:
    """Erase a canonical address and leave a suppression of that scope.

    The audit log is rewritten on a thread. Doing it again erases what was left.
    Raises StoreUnavailable, OSError.
    """
    others = [
        *await store.variants(address),
        *former_addresses(await store.rectifications(address)),
    ]
    erased = await store.erase_contact(address, at=at, scope=scope)
    reports = await forget_reports(settings, address)
    rows, left = 0, None
    try:
        rows = await asyncio.to_thread(_from_audit_log, settings, address)
    except StillWritten as error:
        left = str(error)
    return Erasure(erased, reports, rows, tuple(dict.fromkeys(others)), left)


def _from_audit_log(settings: Settings, address: str) -> int:
    folder = settings.server.state_dir / "audit"
    with contextlib.suppress(FileNotFoundError):  # nothing has been decided yet
        os.scandir(folder).close()  # else what may not be read would look empty
    return pseudonymise(folder, address)
