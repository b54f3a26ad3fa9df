"""Where child processes come from: a process that has loaded what they run, and only forks.

It is forked from the supervisor before that has a loop, and never has a loop or a thread itself: no
lock, thread or connection comes along into a child by accident, and what is loaded once is in the
memory of all of them, and not loaded again.
"""

import asyncio
import gc
import itertools
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from smtpproxy.process import child
from smtpproxy.process.children import Start
from smtpproxy.settings import Settings
from smtpproxy.store import is_postgresql

_LONGEST = 4096  # octets of a packet
_MAX_FILES = 253  # that one message of the kernel can take

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _KEPT = -1, -3, 32 * 1024 * 1024
"""For mallopt(3). Keep freed memory for the next large message: asking for fresh pages each time
costs more than looking at every octet of it."""


class Begun(msgspec.Struct, frozen=True, tag=True):
    """What was asked for with this number is a process of its own now."""

    number: int
    pid: int


class NotBegun(msgspec.Struct, frozen=True, tag=True):
    """There is no process, or no memory, for it."""

    number: int
    text: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A child is gone. A negative `code` is the signal that killed it."""

    pid: int
    code: int


Told = Begun | NotBegun | Ended
_decode = msgspec.msgpack.Decoder(Told).decode


class ChildProcess:
    """A child that has begun, as the supervisor sees it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        """Return the exit code once it is gone; the negative number of the signal that did it."""
        await self._ended.wait()
        return -signal.SIGKILL if self.returncode is None else self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self, code: int | None) -> None:
        self.returncode = code
        self._ended.set()


class Nursery:
    """Starts children. It is made before there is a loop, and used on it."""

    def __init__(self, settings: Settings) -> None:
        """Fork. What children with these settings run is loaded before. Raises OSError."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            raise OSError(f"pidfd_open: {error.strerror}; Linux 5.3 or newer has it") from error
        _load(settings)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _flush()
        gc.collect()
        gc.freeze()  # or each process would write to all of its memory when it collects garbage
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until it is held off there
        try:
            self._pid = os.fork()
            if not self._pid:
                _grow(theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._ours.setblocking(False)
        self._turn = asyncio.Lock()
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[ChildProcess]] = {}
        self._children: dict[int, ChildProcess] = {}
        self._lost: Callable[[], None] = lambda: None

    def open(self, lost: Callable[[], None]) -> None:
        """Listen to it. `lost` is called when it ended by itself: then no child can be started, and
        who has ended is not known."""
        self._lost = lost
        asyncio.get_running_loop().add_reader(self._ours, self._heard)

    async def start(
        self, start: Start, channel: socket.socket, sockets: Mapping[str, socket.socket]
    ) -> ChildProcess:
        """Start a child with its end of the channel; it gets copies. Raises OSError."""
        given = _file_of(start)
        try:
            files = [given, channel.fileno(), *(sockets[each].fileno() for each in start.listening)]
            async with self._turn:
                number = next(self._numbers)
                answer: asyncio.Future[ChildProcess] = asyncio.get_running_loop().create_future()
                socket.send_fds(self._ours, [str(number).encode()], files)
                self._answers[number] = answer
                return await answer
        finally:
            os.close(given)

    def close(self) -> None:
        """Let it end, which it does when it is alone; for when the loop has ended."""
        self._ours.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _heard(self) -> None:
        while True:
            try:
                packet = self._ours.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._is_lost()
                return
            self._take(_decode(packet))

    def _take(self, told: Told) -> None:
        if isinstance(told, Ended):
            self._children.pop(told.pid).end(told.code)
            return
        answer = self._answers.pop(told.number)
        if isinstance(told, Begun):
            begun = self._children[told.pid] = ChildProcess(told.pid)
            if not answer.done():  # else nobody waits for it any more, and its channel is closed
                answer.set_result(begun)
        elif not answer.done():
            answer.set_exception(OSError(told.text))

    def _is_lost(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OSError("the process that starts others has ended"))
        for one in self._children.values():
            one.end(None)
        self._lost()


def _file_of(start: Start) -> int:
    """Return the number of a file in memory that has it, to be read from its beginning."""
    number = os.memfd_create("start")
    with open(number, "wb", closefd=False) as file:
        pickle.dump(start, file)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _load(settings: Settings) -> None:
    """Have in memory what children with these settings run."""
    import smtpproxy.process.worker

    if settings.web is not None:
        import smtpproxy.process.webserver
    if settings.feedback is not None:
        import smtpproxy.process.feedback
    if settings.webhooks:
        import smtpproxy.process.webhooks
    if is_postgresql(settings.store):
        import smtpproxy.process.journals  # noqa: F401


def _grow(sock: socket.socket) -> NoReturn:
    """Be the nursery, for whoever is at the other end of a socket, until that is gone."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the supervisor decides when to end
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if not sys.flags.safe_path:
            del sys.path[0]  # what lies in the working directory is not ours to run
        _leave_files(sock)
        child.be_called("nursery")
        with suppress(Exception):  # not with every C library
            import ctypes

            for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
                ctypes.CDLL(None).mallopt(option, _KEPT)
        with suppress(ConnectionError):  # the supervisor is gone
            _serve(sock)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _leave_files(sock: socket.socket) -> None:
    """Hold on to no file of the supervisor's, but to those that are written to.

    Their numbers stay taken: whoever had opened them closes no other file in their place.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in (1, 2, sock.fileno(), nothing):
            os.dup2(nothing, number, inheritable=number == 0)


def _serve(sock: socket.socket) -> None:
    def tell(told: Told) -> None:
        sock.send(msgspec.msgpack.encode(told))

    selector = selectors.EpollSelector()
    selector.register(sock, selectors.EVENT_READ)
    waited = selector.get_map()
    while True:
        for key, _ in selector.select():
            if pid := key.data:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                tell(Ended(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
                continue
            packet, files, _, _ = socket.recv_fds(sock, _LONGEST, _MAX_FILES)
            if not packet:
                return
            number = int(packet)
            try:
                pid = os.fork()
                if not pid:
                    _be_child(files, [selector.fileno(), *(key.fd for key in waited.values())])
                selector.register(_watched(pid), selectors.EVENT_READ, pid)
            except OSError as error:
                tell(NotBegun(number, str(error)))
            else:
                tell(Begun(number, pid))
            for file in files:
                os.close(file)


def _watched(pid: int) -> int:
    """Return a file that shows the end of a child; where there is none, the child must not live on:
    who asked for it is told that there is none, and asks for another."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _be_child(files: list[int], nursing: list[int]) -> NoReturn:
    """Close what the nursery is `nursing` with, and do the work of a role."""
    code = 1
    try:
        for number in nursing:
            os.close(number)
        code = child.work(*files)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
