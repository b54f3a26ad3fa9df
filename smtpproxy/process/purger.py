"""The purge process: one daily run, out of everybody's way, and then it is gone."""

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from smtpproxy.process.channel import Channel, Drain
from smtpproxy.retention.run import AlreadyRunning, Purged, purge
from smtpproxy.settings import Settings
from smtpproxy.sinks.log import configure_logging
from smtpproxy.store import open_store

_PATIENCE = 30.0
"""Seconds that it waits for a lock of the store: an import may have it."""

log = structlog.get_logger()


def run_purge(settings: Settings, channel: socket.socket) -> int:
    """Run once; return the exit code: 0 done, or told to end before, 1 failed."""
    configure_logging(settings.server, process="purge")
    os.nice(19)
    return asyncio.run(_run(settings, channel))


async def _run(settings: Settings, sock: socket.socket) -> int:
    channel = await Channel.over(sock)
    purging = asyncio.create_task(_purge(settings))
    watching = asyncio.create_task(_until_told(channel))
    await asyncio.wait((purging, watching), return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if not purging.done():
        purging.cancel()  # what is committed stays, and the next run does the rest
    try:
        _tell(await purging)
    except asyncio.CancelledError:
        log.info("purge interrupted")
    except AlreadyRunning as error:
        log.info("purge left out", reason=str(error))
    except Exception as error:
        log.error("purge failed", exc_info=error)
        return 1
    finally:
        channel.close()
    return 0


async def _purge(settings: Settings) -> Purged:
    patient = replace(settings.store, timeout=max(settings.store.timeout, _PATIENCE))
    store = open_store(patient, settings.server.state_dir)
    try:
        return await purge(settings, store, at=datetime.now(UTC), clock=lambda: datetime.now(UTC))
    finally:
        with suppress(asyncio.CancelledError):
            await store.close()


async def _until_told(channel: Channel) -> None:
    """Return when the supervisor says so, or is gone."""
    async for message in channel.messages():
        if isinstance(message, Drain):
            return


def _tell(purged: Purged) -> None:
    log.info(
        "purged",
        orders=purged.orders,
        matched=purged.matched,
        held=purged.held,
        **{kind: removed.rows for kind, removed in purged.removed.items()},
    )
