"""The daily purge, as the supervisor sees it: when it is due, and what became of it."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from smtpproxy.process.channel import Channel, Drain
from smtpproxy.process.child import Start, start_child
from smtpproxy.retention import history
from smtpproxy.retention.schedule import is_due
from smtpproxy.settings import Settings

_LOOK = 15.0
"""Seconds between two looks at the clock, which may be set, or have slept."""
_AGAIN = 3_600.0
"""Seconds after which a run that failed is tried again."""
_GRACE = 5.0

log = structlog.get_logger()


class DailyPurge:
    """Starts a child at the configured time; `failed` is told how many runs failed.

    Of a run that was missed while the relay was down, or that failed, one is made up for.
    """

    def __init__(self, settings: Settings, failed: Callable[[int], None]) -> None:
        self._settings = settings
        self._failed = failed
        self._failures = 0

    async def run(self) -> None:
        """Run until cancelled."""
        if not self._settings.retention.enabled:
            return
        while True:
            pause = _LOOK
            try:
                if self._due():
                    code = await self._run_once()
                    pause = _LOOK if code == 0 else self._failure(f"exit code {code}")
            except Exception as error:  # no disk, no process, no memory: mail goes on
                pause = self._failure(str(error))
            await asyncio.sleep(pause)

    def _due(self) -> bool:
        """Whether it is time. The first start of all begins the record, and counts as a run."""
        state, now = self._settings.server.state_dir, datetime.now(UTC)
        last = history.newest(state) or history.note(state, now, now, {})
        return is_due(last.began, now, self._settings.retention.at)

    def _failure(self, outcome: str) -> float:
        self._failures += 1
        self._failed(self._failures)
        log.error("purge failed", outcome=outcome, again_in=_AGAIN)
        return _AGAIN

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        try:
            process = await start_child(
                Start("purge", 0, self._settings, theirs.fileno(), {}, time.time())
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        channel = await Channel.over(ours)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            channel.send(Drain())
            try:
                await asyncio.wait_for(process.wait(), _GRACE)
            except TimeoutError:
                process.kill()  # each batch is whole or not at all
                await process.wait()
            raise
        finally:
            channel.close()
