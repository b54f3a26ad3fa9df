"""The sockets that a relay listens on: opened, handed over by others, kept through a reload."""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smtpproxy.config.machine_checks import PRIVILEGED
from smtpproxy.disk import exists
from smtpproxy.process.children import FEEDBACK, WEB
from smtpproxy.settings import Address, Settings, TcpAddress

_FIRST_HANDED_ON = 3  # sd_listen_fds(3)


class Sockets:
    """The listening sockets by listener, WEB and FEEDBACK.

    If an address already has a socket, in this process or handed over by another, that socket is
    used, so that no waiting connection is lost.
    """

    def __init__(self, settings: Settings, handed_on: Iterable[socket.socket] = ()) -> None:
        """Raises CannotListen, also if a socket that was handed over cannot be used."""
        self._handed_on = list(handed_on)
        self._of_others = {*self._handed_on}  # other processes listen on these, or may
        self.listening: Mapping[str, socket.socket] = {}
        self.listening = self.for_settings(settings)
        unused = set(map(_place, self._handed_on)) - set(map(_place, self.listening.values()))
        if unused:
            places = ", ".join(sorted(map(str, unused)))
            raise CannotListen(f"a socket was handed over for {places}, which has no listener")
        self._handed_on = []

    def for_settings(self, settings: Settings) -> dict[str, socket.socket]:
        """Return the sockets for these settings, reusing existing ones.

        Pass them to `keep` or `forget`. Raises CannotListen.
        """
        there = {_place(sock): sock for sock in (*self._handed_on, *self.listening.values())}
        found: dict[str, socket.socket] = {}
        try:
            for name, address in addresses(settings).items():
                found[name] = there.get(_wanted(address)) or listen(name, address)
        except BaseException:
            self.forget(found)
            raise
        return found

    def keep(self, sockets: Mapping[str, socket.socket]) -> None:
        """Use these sockets from now on, and close the others."""
        kept = set(sockets.values())
        for name, sock in self.listening.items():
            if sock not in kept:
                self._end(name, sock)
        self.listening = sockets

    def forget(self, sockets: Mapping[str, socket.socket]) -> None:
        """Close those of these sockets that are not in use."""
        kept = {*self.listening.values(), *self._handed_on}
        for sock in sockets.values():
            if sock not in kept:
                sock.close()

    def hand_over(self) -> list[socket.socket]:
        """Return the sockets for another process to listen on."""
        self._of_others.update(self.listening.values())
        return list(self.listening.values())

    def close(self) -> None:
        for name, sock in self.listening.items():
            self._end(name, sock)

    def _end(self, name: str, sock: socket.socket) -> None:
        # The web process and the mailbox still answer while the workers finish.
        if name not in (WEB, FEEDBACK) and sock not in self._of_others:
            _take_no_more(sock)
        sock.close()


_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_NO_SYN = (  # a program for the kernel's packet filter (BPF), whose packet is the TCP segment
    (0x30, 0, 0, 13),  # its flags
    (0x54, 0, 0, 0x12),  # only SYN and ACK of them
    (0x15, 0, 1, 0x02),  # SYN alone: a new connection
    (0x06, 0, 0, 0),  # is dropped
    (0x06, 0, 0, 0xFFFFFFFF),  # anything else passes whole: handshakes in progress are completed
)


def _take_no_more(sock: socket.socket) -> None:
    """Make the kernel drop new connections; workers accept those that wait, then close the socket.

    A client that connected between their last accept and the close would be cut off without a word.
    Its kernel tries again after a second, and finds the socket closed or another process there.
    """
    if sock.family == socket.AF_UNIX:
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _NO_SYN))
    fprog = struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError):  # not everywhere: then a few are cut off
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def addresses(settings: Settings) -> dict[str, Address]:
    """The addresses on which these settings listen."""
    found: dict[str, Address] = {each.name: each.address for each in settings.listeners}
    if settings.web is not None:
        found[WEB] = settings.web.address
    if settings.feedback is not None and settings.feedback.address is not None:
        found[FEEDBACK] = settings.feedback.address
    return found


def handed_on_by_systemd(environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets of a systemd socket unit (sd_listen_fds(3)), if there is one."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=n) for n in range(_FIRST_HANDED_ON, _FIRST_HANDED_ON + count)]
    for sock in sockets:
        sock.setblocking(False)
        sock.set_inheritable(False)
    return sockets


def _place(sock: socket.socket) -> object:
    """Where a socket listens, in a comparable form."""
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else os.path.realpath(name)


def _wanted(address: Address) -> object:
    if not isinstance(address, TcpAddress):
        return os.path.realpath(address.path)
    try:
        return _resolved(address)[4][:2]
    except OSError:
        return None


_TAKEN_FOR = 5.0
"""Seconds to wait for an address that a relay that has just ended may still hold."""


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
                if error.errno == errno.EACCES and isinstance(address, TcpAddress):
                    reason += f": {PRIVILEGED}"
                if error.errno == errno.EADDRINUSE:
                    reason += ": stop the program that listens there, or give another address"
                raise CannotListen(f'"{name}" cannot listen on {address}: {reason}') from error
        time.sleep(0.1)


def _tcp(address: TcpAddress) -> socket.socket:
    family, kind, protocol, _, where = _resolved(address)
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


def _resolved(address: TcpAddress) -> tuple[Any, ...]:
    return socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]


def _unix(path: Path) -> socket.socket:
    """Listen on a socket file, replacing one on which nobody listens, but no other file."""
    if exists(path) and not path.is_socket():
        raise OSError(errno.ENOTSOCK, "it exists and is not a socket")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not answers(path):
            path.unlink()
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def answers(path: Path | str) -> bool:
    """Whether somebody listens on a socket in the file system."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
