"""Wiring only: from settings to a running relay, and the sockets that its workers share."""

import asyncio
import errno
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from smtpproxy.config import ConfigError
from smtpproxy.config.start_checks import FOLDERS, check_named_files
from smtpproxy.process.children import FEEDBACK
from smtpproxy.process.supervisor import Notifier, Supervisor
from smtpproxy.settings import Address, Settings, TcpAddress
from smtpproxy.sinks.log import configure_logging
from smtpproxy.store import open_store
from smtpproxy.store.key_files import LINK_KEY_FILE as LINK_KEYS
from smtpproxy.store.key_files import ensure_link_keys
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable


def serve(settings: Settings) -> int:
    """Run the relay until it is told to end; return the exit code.

    0 after a drain, 1 when it could not start, 2 when it is not configured to.
    """
    configure_logging(settings.server, process="supervisor")
    try:
        check_named_files(settings, "smtpproxy")
        _prepare_state(settings)
        sockets = _listen(settings)
    except ConfigError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return error.exit_code
    except (CannotListen, StoreUnavailable, OSError) as error:
        print(f"smtpproxy: cannot start: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, StoreMisconfigured) else 1
    return asyncio.run(_supervise(settings, sockets))


def _prepare_state(settings: Settings) -> None:
    """Make the folders and the store, so that what is wrong with them shows at once."""
    state = settings.server.state_dir
    for folder in (state, *(state / name for name in FOLDERS)):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"server.state_dir: {folder}: {error.strerror}") from error
    if settings.feedback is not None:
        try:
            Maildir(settings.feedback_dir).make()
        except OSError as error:
            raise OSError(f"feedback.maildir: {error.filename}: {error.strerror}") from error
    asyncio.run(_open_and_close(settings))
    if settings.makes_tokens and ensure_link_keys(state, datetime.now(UTC).date()):
        structlog.get_logger().info("key of links made", file=str(state / LINK_KEYS))


async def _open_and_close(settings: Settings) -> None:
    store = open_store(settings.store, settings.server.state_dir)
    await store.ping()
    await store.close()


def _listen(settings: Settings) -> dict[str, socket.socket]:
    sockets = {
        listener.name: listen(listener.name, listener.address) for listener in settings.listeners
    }
    if settings.web is not None:
        sockets["web"] = listen("web", settings.web.address)
    if settings.feedback is not None and settings.feedback.address is not None:
        sockets[FEEDBACK] = listen("feedback", settings.feedback.address)
    return sockets


async def _supervise(settings: Settings, sockets: dict[str, socket.socket]) -> int:
    return await Supervisor(settings, sockets, Notifier(os.environ)).run()


_TAKEN_FOR = 5.0
"""Seconds to wait for an address that a relay which just ended may still hold."""


class CannotListen(Exception):
    """An address cannot be listened on; the text says which and why."""


def listen(name: str, address: Address) -> socket.socket:
    """Return a listening socket. Raises CannotListen."""
    deadline = time.monotonic() + _TAKEN_FOR
    while True:
        try:
            return _tcp(address) if isinstance(address, TcpAddress) else _unix(address.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise CannotListen(f'"{name}" cannot listen on {address}: {reason}') from error
        time.sleep(0.1)


def _tcp(address: TcpAddress) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def _unix(path: Path) -> socket.socket:
    """A socket file that nobody listens on any more is replaced; no other file is."""
    if path.exists() and not path.is_socket():
        raise OSError(errno.ENOTSOCK, "it exists and is not a socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
