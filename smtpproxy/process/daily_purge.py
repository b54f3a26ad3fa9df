"""The daily purge: when it is due, and the separate process that does it."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from msgspec.structs import replace

from smtpproxy.process.children import Channel, Drain, Start
from smtpproxy.process.nursery import Nursery, lower_priority
from smtpproxy.purge_runs import check_clock, is_due, newest_run, note_run
from smtpproxy.retention import AlreadyRunning, Purged, purge
from smtpproxy.settings import Settings
from smtpproxy.store import open_store

_LOOK = 15.0
"""Seconds between two checks of the clock, which may be set, or stand still in standby."""
_AGAIN = 3_600.0
"""Seconds after which a failed run is tried again."""
_GRACE = 5.0

log = structlog.get_logger()


async def purge_daily(settings: Settings, nursery: Nursery, failed: Callable[[], None]) -> None:
    """Start a child at the configured time, until cancelled; `failed` is called after each failed
    run.

    One run makes up for all that failed, or were missed while the relay was down.
    """
    while settings.retention.enabled:
        pause, failure = _LOOK, None
        try:
            if _is_due(settings):
                code = await _run_once(settings, nursery)
                failure = f"exit code {code}" if code else None
        except Exception as error:  # no disk, no process, no memory: mail goes on
            failure = str(error)
        if failure is not None:
            failed()
            pause = _AGAIN
            log.error("purge failed", outcome=failure, again_in=pause)
        await asyncio.sleep(pause)


def _is_due(settings: Settings) -> bool:
    """Whether a run is due. The very first start begins the record and counts as a run.

    Raises ClockDoubtful.
    """
    state, now = settings.server.state_dir, datetime.now(UTC)
    last = newest_run(state) or note_run(state, now, now, {})
    if not is_due(last.began, now, settings.retention.at):
        return False
    check_clock(state, now)
    return True


async def _run_once(settings: Settings, nursery: Nursery) -> int:
    start = Start("purge", 0, settings)
    process, channel = await nursery.start_with_channel(start, {})
    try:
        return await process.wait()
    except asyncio.CancelledError:
        channel.send(Drain())
        try:
            await asyncio.wait_for(process.wait(), _GRACE)
        except TimeoutError:
            process.kill()  # each batch is all or nothing
            await process.wait()
        raise
    finally:
        channel.close()


_LOCK_TIMEOUT = 30.0
"""Seconds to wait for a lock of the store, which an import may hold."""


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    """Purge once; return the exit code: 0 if done or told to end, 1 if it failed."""
    lower_priority(19)
    return asyncio.run(_run(start.settings, channel))


async def _run(settings: Settings, sock: socket.socket) -> int:
    channel = await Channel.over(sock)
    purging = asyncio.create_task(_purge(settings))
    watching = asyncio.create_task(_until_told(channel))
    await asyncio.wait((purging, watching), return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if not purging.done():
        purging.cancel()  # what is committed stays; the next run does the rest
    try:
        _tell(await purging)
    except asyncio.CancelledError:
        log.info("purge interrupted")
    except AlreadyRunning as error:
        log.info("purge skipped", reason=str(error))
    except Exception as error:
        log.error("purge failed", exc_info=error)
        return 1
    finally:
        channel.close()
    return 0


async def _purge(settings: Settings) -> Purged:
    waiting = replace(settings.store, timeout=max(settings.store.timeout, _LOCK_TIMEOUT))
    store = open_store(waiting, settings.server.state_dir)
    try:
        return await purge(settings, store, at=datetime.now(UTC), clock=lambda: datetime.now(UTC))
    finally:
        with suppress(asyncio.CancelledError):
            await store.close()


async def _until_told(channel: Channel) -> None:
    """Return when the supervisor says so or is gone."""
    async for message in channel.messages():
        if isinstance(message, Drain):
            return


def _tell(purged: Purged) -> None:
    log.info(
        "purged",
        orders=purged.orders,
        matched=purged.matched,
        held=purged.held,
        waits_for=purged.behind,
        **{kind: removed.rows for kind, removed in purged.removed.items()},
    )
