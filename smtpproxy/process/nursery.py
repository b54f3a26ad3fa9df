"""The parent of child processes: a process that has loaded what they run, and only forks.

It is forked from the supervisor before that has an event loop, and never has a loop or a thread
itself, so that no lock, thread or connection gets into a child by accident. What it has loaded is
shared by all children and not loaded again.
"""

import asyncio
import ctypes
import itertools
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import msgspec

from smtpproxy.locale import texts
from smtpproxy.locale.pages import load_pages
from smtpproxy.process.children import MODULES, Channel, Start, name_of, other_roles
from smtpproxy.process.memory import fill_gaps, freeze_loaded
from smtpproxy.settings import Settings
from smtpproxy.sinks.log import configure_logging
from smtpproxy.store.sqlite.connection import map_nothing

_LONGEST = 4096  # octets of a packet
_MAX_FILES = 253  # that fit into one message of the kernel
_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_OOM_SCORE = 100
"""Thousandths of the memory: more than the supervisor uses beyond what a child does, and less than
a process uses that takes the memory of the whole machine."""


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The child requested with this number has been forked."""

    number: int
    pid: int


class NotForked(msgspec.Struct, frozen=True, tag=True):
    """The child could not be forked for lack of processes or memory."""

    number: int
    text: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A child has ended. A negative `code` is the signal that killed it."""

    pid: int
    code: int


Message = Forked | NotForked | Ended
_decode = msgspec.msgpack.Decoder(Message).decode


class ChildProcess:
    """A started child, as the supervisor sees it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        """Return the exit code, or the negative number of a signal, once it has ended."""
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
    """Starts children. Create it before there is an event loop, and use it on that loop."""

    def __init__(self, settings: Settings) -> None:
        """Fork, after loading what children with these settings run. Raises OSError."""
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            raise OSError(f"pidfd_open: {error.strerror}; Linux 5.3 or newer has it") from error
        _load(settings)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _flush()
        freeze_loaded()
        fill_gaps()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the nursery ignores it
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
        self._lost: Callable[[int], None] = lambda _: None

    def open(self, lost: Callable[[int], None]) -> None:
        """Receive its messages. `lost` is called with its exit code if it ends unexpectedly: then
        no child can be started, and which ones have ended is unknown."""
        self._lost = lost
        asyncio.get_running_loop().add_reader(self._ours, self._heard)

    async def start(
        self, start: Start, channel: socket.socket, sockets: Mapping[str, socket.socket]
    ) -> ChildProcess:
        """Start a child with copies of its channel's end and its sockets. Raises OSError."""
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

    async def start_with_channel(
        self, start: Start, sockets: Mapping[str, socket.socket]
    ) -> tuple[ChildProcess, Channel]:
        """Start a child; return it with our end of its channel. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await self.start(start, theirs, sockets)
        except BaseException:
            ours.close()
            raise
        return process, await Channel.over(ours)

    def close(self) -> None:
        """Let it end, which it does once it has no children. Call this after the loop has ended."""
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

    def _take(self, message: Message) -> None:
        if isinstance(message, Ended):
            self._children.pop(message.pid).end(message.code)
            return
        answer = self._answers.pop(message.number)
        if isinstance(message, Forked):
            child = self._children[message.pid] = ChildProcess(message.pid)
            if not answer.done():  # otherwise nobody waits, and its channel is closed
                answer.set_result(child)
        elif not answer.done():
            answer.set_exception(OSError(message.text))

    def _is_lost(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OSError("the process that starts others has ended"))
        for one in self._children.values():
            one.end(None)
        _, status = os.waitpid(self._pid, 0)
        self._lost(os.waitstatus_to_exitcode(status))


def _file_of(start: Start) -> int:
    """Return the number of a file in memory that contains it, positioned at its beginning."""
    number = os.memfd_create("start")
    with open(number, "wb", closefd=False) as file:
        pickle.dump(start, file)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _load(settings: Settings) -> None:
    """Load what children with these settings run, and the texts that they always read."""
    for role in ("worker", *other_roles(settings)):
        import_module(MODULES[role])
    texts(settings.server.language)  # of notices
    if settings.web is not None:
        load_pages()
    if settings.webhooks:
        import httpcore  # noqa: F401 - which httpx would load with its first client
    if any(stream.check_dkim for stream in settings.streams.values()):
        import smtpproxy.relay.dkim_verifying
        import smtpproxy.resolver
    if settings.asks_dns:  # a worker that loads it by itself takes 8 MB more
        import dns.asyncresolver  # noqa: F401

        import smtpproxy.core.domains  # noqa: F401


def _grow(sock: socket.socket) -> NoReturn:
    """Run as the nursery for the other end of a socket, until that is gone."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the supervisor decides when to end
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if not sys.flags.safe_path:
            del sys.path[0]  # nothing in the working directory may be imported
        leave_files(sock)
        set_process_name("nursery")
        # What a killed child leaves would be the supervisor's if that is the first of a container.
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with suppress(ConnectionError):  # the supervisor is gone
            _serve(sock)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def leave_files(sock: socket.socket) -> None:
    """Close the parent's files except standard output and error.

    Their numbers stay in use, so that objects that had opened them cannot close another file.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in (1, 2, sock.fileno(), nothing):
            os.dup2(nothing, number, inheritable=number == 0)


def _serve(sock: socket.socket) -> None:
    def tell(message: Message) -> None:
        sock.send(msgspec.msgpack.encode(message))

    selector = selectors.EpollSelector()
    selector.register(sock, selectors.EVENT_READ)
    waited = selector.get_map()
    while True:
        for key, _ in selector.select():
            if pid := key.data:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if code == -signal.SIGBUS:
                    map_nothing()
                tell(Ended(pid, code))
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
                tell(NotForked(number, str(error)))
            else:
                tell(Forked(number, pid))
            for file in files:
                os.close(file)
        _reap({key.data for key in waited.values()})


def _reap(children: Collection[int]) -> None:
    """Reap processes that ended children had started: nobody else does."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in children:
                return  # its end has yet to be reported
            os.waitpid(ended.si_pid, 0)


def _watched(pid: int) -> int:
    """Return a file that shows the end of a child. If that fails, kill the child: the supervisor is
    told that there is none, and requests another."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _be_child(files: list[int], nursing: list[int]) -> NoReturn:
    """Close the nursery's own files (`nursing`), and do the work of a role."""
    code = 1
    try:
        for number in nursing:
            os.close(number)
        code = _work(*files)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # to the log, once that is configured
    finally:
        _flush()
        os._exit(code)


def _work(given: int, channel: int, *listening: int) -> int:
    """Do the work that the file `given` describes; return the exit code. All are file numbers."""
    with open(given, "rb") as file:
        start: Start = pickle.load(file)
    name = name_of(start.role, start.number)
    set_process_name(name)
    _be_killed_first()
    to_supervisor = socket.socket(fileno=channel)
    sockets = {
        name: socket.socket(fileno=number)
        for name, number in zip(start.listening, listening, strict=True)
    }
    for sock in (*sockets.values(), to_supervisor):
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    configure_logging(start.settings.server, process=name)
    code: int = import_module(MODULES[start.role]).run(start, sockets, to_supervisor)
    return code


def set_process_name(name: str) -> None:
    """Set the name that `ps -e`, `top` and `pgrep` show for this process."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def lower_priority(steps: int) -> None:
    """Let processes that handle mail have the processor first, unless a sandbox forbids it."""
    with suppress(OSError):
        os.nice(steps)


def _be_killed_first() -> None:
    """Let a kernel short of memory kill this process rather than the supervisor, which starts it
    anew."""
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError):
        path.write_text(str(min(int(path.read_text()) + _OOM_SCORE, 1000)))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
