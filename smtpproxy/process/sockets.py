"""The listening sockets: bound once by the supervisor, shared by all workers."""

import errno
import socket
import time
from pathlib import Path

from smtpproxy.settings import Address, TcpAddress

_TAKEN_FOR = 5.0
"""Seconds to wait for an address that a relay which just ended may still hold."""


class CannotListen(Exception):
    """An address cannot be listened on; the text says which and why."""


def listen(name: str, address: Address) -> socket.socket:
    """Return a listening socket. Raises CannotListen."""
    patience = time.monotonic() + _TAKEN_FOR
    while True:
        try:
            return _tcp(address) if isinstance(address, TcpAddress) else _unix(address.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > patience:
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
    """A socket file that nobody listens on any more is replaced."""
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
