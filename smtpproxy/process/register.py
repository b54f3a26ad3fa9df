"""Tells the other relays of the same store which keys this one has and how it is configured.

It checks the key files every few seconds, so that a new key counts soon after it was copied, and
compares them with the store: the log and the metrics report a key that is missing here.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from msgspec.structs import replace

from smtpproxy.settings import Settings
from smtpproxy.sinks.snapshots import Samples
from smtpproxy.store import is_postgresql, open_store, opened_store
from smtpproxy.store.configurations import (
    Misfit,
    check_link_keys,
    check_suppression_keys,
    of_relays,
    state_of,
)
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.register import RelayState, relay_id

_LOOK = 2.0  # seconds between two checks of the key files
_TELL = 60.0  # seconds after which the same is reported again, as a sign of life
_CONNECTIONS = 2

log = structlog.get_logger()


async def introduce(settings: Settings) -> None:
    """Tell the others before this relay accepts mail. Raises StoreUnavailable, OSError."""
    if is_postgresql(settings.store):
        async with opened_store(settings) as store:
            id = relay_id(settings.server.state_dir)
            await store.tell(id, state_of(settings), at=datetime.now(UTC))


async def tell_others(settings: Settings, counted: Callable[[Samples], None]) -> None:
    """Run until cancelled. If the store is a file, there are no other relays.

    `counted` is called with the numbers of keys missing here and of differences to other relays, by
    kind.
    """
    if is_postgresql(settings.store):
        await RelayReporter(settings, counted).run()


class RelayReporter:
    """Reports keys and configuration of one relay."""

    def __init__(self, settings: Settings, counted: Callable[[Samples], None]) -> None:
        self._settings = settings
        self._counted = counted
        few = replace(settings.store, connections=_CONNECTIONS)
        self._store = open_store(few, settings.server.state_dir)
        self._last: RelayState | None = None
        self._again_at = 0.0
        self._fault = ""
        self._misfits: list[Misfit] = []

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                self._say(await self._tell())
                found = len(self._misfits)
                self._counted({("key",): int(bool(self._fault)), ("configuration",): found})
                await asyncio.sleep(_LOOK)
        finally:
            await self._store.close()

    async def _tell(self) -> str:
        """Report once; return what is wrong with the keys."""
        settings, told = self._settings, False
        try:
            now = await asyncio.to_thread(state_of, settings)
            if now == self._last and time.monotonic() < self._again_at:
                return self._fault
            store = self._store
            await store.tell(relay_id(settings.server.state_dir), now, at=datetime.now(UTC))
            told = True
            await check_suppression_keys(store, settings.server.state_dir)
            if settings.makes_tokens:
                used = await store.link_keys()
                await check_link_keys(store, settings.server.state_dir, used)
            self._compare(await of_relays(settings, store, now=datetime.now(UTC)))
            self._last, self._again_at = now, time.monotonic() + _TELL
        except StoreMisconfigured as error:
            self._last = None  # compare again
            return str(error) if told else self._fault  # without an answer nothing is known of keys
        except (StoreUnavailable, OSError):
            return self._fault  # those that need the store report it
        except Exception as error:  # a fault of the program: mail goes on
            log.error("internal error", exc_info=error)
            return self._fault
        return ""

    def _compare(self, found: list[Misfit]) -> None:
        """Log new differences; relays that are reloaded one after the other differ for a moment."""
        for each in found:
            if each not in self._misfits:
                log.warning("relays differ", relay=each.subject, text=each.text, fix=each.fix)
        if self._misfits and not found:
            log.info("relays no longer differ")
        self._misfits = found

    def _say(self, fault: str) -> None:
        """Log a fault once, and when it is over."""
        if fault == self._fault:
            return
        self._fault = fault
        if fault:
            log.error("key missing", why=fault)
        else:
            log.info("all keys are here")
