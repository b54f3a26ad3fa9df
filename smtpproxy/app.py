"""Wiring: from a configuration file to a running relay."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from smtpproxy.config import ConfigError
from smtpproxy.config.machine_checks import folder_fault
from smtpproxy.config.start_checks import FOLDERS, check_named_files, restore_warnings
from smtpproxy.open_files import raise_limit
from smtpproxy.process.control import HandOver, NotRunning, StepDown, ask
from smtpproxy.process.listening import CannotListen, Sockets, handed_on_by_systemd
from smtpproxy.process.notifier import Notifier
from smtpproxy.process.nursery import Nursery
from smtpproxy.process.register import introduce
from smtpproxy.process.supervisor import Source, Supervisor
from smtpproxy.settings import Settings
from smtpproxy.sinks.log import configure_logging
from smtpproxy.store import opened_store
from smtpproxy.store.configurations import of_rows, settle_link_keys
from smtpproxy.store.key_files import key_place
from smtpproxy.store.link_keys import LINK_KEY_FILE
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.move.traces import uncopied
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable, with_cause
from smtpproxy.store.sql.store import Store


def serve(settings: Settings, read: Callable[[], Settings], *, take_over: bool = False) -> int:
    """Run the relay until it is told to end; return the exit code.

    0 after a drain, 1 if it could not start, 2 if its configuration is invalid. `read` reads the
    settings again; it raises ConfigError. `take_over`: use the sockets of the relay running with
    this state_dir, which ends once this one works.
    """
    configure_logging(settings.server, process="supervisor")
    raise_limit()
    try:
        prepare(settings)
        asyncio.run(introduce(settings))
        sockets = Sockets(settings, _handed_on(settings, take_over=take_over))
        nursery = Nursery(settings)
    except ConfigError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return error.exit_code
    except (CannotListen, NotRunning, StoreUnavailable, OSError) as error:
        print(f"smtpproxy: cannot start: {with_cause(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, StoreMisconfigured) else 1
    state_dir = settings.server.state_dir
    take_place = (lambda: _step_down(state_dir)) if take_over else None
    with closing(nursery):
        supervising = _supervise(settings, sockets, Source(read, prepare), take_place, nursery)
        return asyncio.run(supervising)


def _handed_on(settings: Settings, *, take_over: bool) -> list[socket.socket]:
    """Raises NotRunning, OSError."""
    if not take_over:
        return handed_on_by_systemd(os.environ)
    response, sockets = ask(settings.server.state_dir, HandOver())
    if response.faults:
        raise NotRunning("; ".join(response.faults))
    return sockets


def _step_down(state_dir: Path) -> None:
    try:
        ask(state_dir, StepDown())
    except (NotRunning, OSError) as error:  # it has already ended
        structlog.get_logger().warning("the previous relay had already ended", error=str(error))


def prepare(settings: Settings) -> None:
    """Make the folders and the store, so that faults in them show immediately.

    Raises ConfigError, StoreUnavailable, OSError.
    """
    for warning in check_named_files(settings, "smtpproxy"):
        structlog.get_logger().warning("configuration", text=warning)
    state = settings.server.state_dir
    for folder in (state, *(state / name for name in FOLDERS)):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"server.state_dir: {folder}: {error.strerror}") from error
        if fault := folder_fault(folder):
            raise OSError(f"server.state_dir: {fault}")
    if settings.feedback is not None:
        try:
            Maildir(settings.feedback_dir).make()
        except OSError as error:
            raise OSError(f"feedback.maildir: {error.filename}: {error.strerror}") from error
    asyncio.run(_open_and_close(settings))
    for warning in restore_warnings(settings):
        structlog.get_logger().warning("marketing deferred", why=warning)


async def _open_and_close(settings: Settings) -> None:
    async with opened_store(settings) as store:
        if settings.makes_tokens:
            await _settle_link_keys(settings.server.state_dir, store)
        found = await of_rows(settings, store) + uncopied(settings)
    for one in found:
        structlog.get_logger().warning(
            "does not fit the store", subject=one.subject, text=one.text, fix=one.fix
        )


async def _settle_link_keys(state: Path, store: Store) -> None:
    """Compare the keys that relays share with the store's. Raises StoreUnavailable."""
    if await settle_link_keys(store, state, at=datetime.now(UTC)):
        file = key_place(state, LINK_KEY_FILE).path
        structlog.get_logger().info("key of links made", file=str(file))


async def _supervise(
    settings: Settings,
    sockets: Sockets,
    source: Source,
    take_place: Callable[[], None] | None,
    nursery: Nursery,
) -> int:
    supervisor = Supervisor(settings, sockets, source, Notifier(os.environ), nursery)
    code = await supervisor.run(take_place)
    # The loop is about to drop its handlers: another signal would make a clean exit look like a
    # crash.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    return code
