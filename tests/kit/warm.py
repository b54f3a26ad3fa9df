"""`smtpproxy` forked from a process that has loaded it, at a tenth of the cost of a start.

The relay's own children start like this (smtpproxy/process/nursery.py). The difference is over
before a command does anything; tests of the start itself start it normally, as does `make soak`.
"""

import atexit
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

_REPOSITORY = Path(__file__).parents[2]
_COMMAND = [sys.executable, "-m", "smtpproxy"]
_OF_THE_INTERPRETER = ("PYTHON", "LC_", "LANG", "TZ")
"""The prefix of environment variables that matter only at a start."""
_LOADED = ("app", "process.worker", "process.webserver", "process.journals", "process.webhooks")
_LONGEST = 200_000  # maximum octets of a request
_PR_SET_PDEATHSIG = 1

_environment: dict[str, str] | None = None


def enable() -> None:
    """Called by tests/conftest.py; benchmarks start relays as users do."""
    global _environment
    _environment = _of_the_interpreter({})


def begins(argv: Sequence[str], env: Mapping[str, str] | None) -> bool:
    """Whether this command can be forked here."""
    return list(argv[:3]) == _COMMAND and _of_the_interpreter(env or {}) == _environment


def _of_the_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    both = {**os.environ, **env}
    return {name: text for name, text in both.items() if name.startswith(_OF_THE_INTERPRETER)}


class ForkedCommand:
    """A running command, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Fork; `arguments` are those after `smtpproxy`, and stdin is empty."""
        self.returncode: int | None = None
        self._told, telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with telling, Path(os.devnull).open() as stdin:
            request = json.dumps(
                {
                    "arguments": list(arguments),
                    "env": {**os.environ, **(env or {})},
                    "cwd": str(cwd or Path.cwd()),
                }
            )
            files = [each.fileno() for each in (stdin, stdout, stderr, telling)]
            socket.send_fds(_parent(), [request.encode()], files)
        self.pid = int(self._told.recv(99))

    def poll(self) -> int | None:
        gone = not Path(f"/proc/{self.pid}").exists()  # whose notice is on its way
        return self._ended(10 if gone else 0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired("smtpproxy", timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                told = self._told.recv(99)
            except (BlockingIOError, TimeoutError):
                return None
            self._told.close()
            self.returncode = int(told or -signal.SIGKILL)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def run(
    arguments: Sequence[str], *, timeout: float, cwd: Path | None, env: Mapping[str, str] | None
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command to its end, like `subprocess.run`."""
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        begun = ForkedCommand(arguments, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
        try:
            code = begun.wait(timeout)
        finally:
            begun.send_signal(signal.SIGKILL)  # if it takes too long
        for file in (stdout, stderr):
            file.seek(0)
        done = [*_COMMAND, *arguments]
        return subprocess.CompletedProcess(done, code, stdout.read(), stderr.read())


@lru_cache(maxsize=1)
def _parent() -> socket.socket:
    """Return a socket to the forking process, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kit.warm", str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
        cwd=_REPOSITORY,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


def _load() -> None:
    """Import what commands import, except what `smtpproxy.__main__` keeps out."""
    sys.modules["rich"] = None  # type: ignore[assignment]
    from smtpproxy.cli import COMMANDS

    for name in sorted({module for module, _, _ in COMMANDS.values()}):
        import_module(f"smtpproxy.cli.{name}")
    for name in _LOADED:
        import_module(f"smtpproxy.{name}")
    gc.collect()
    gc.freeze()


def _wait_for_a_command(sock: socket.socket) -> None:
    """Fork for each request; returns in a child with a request to run, ends without requests."""
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    telling: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select():
            if pid := key.data:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with telling.pop(pid) as teller:
                    teller.send(str(code).encode())
                continue
            request, files, _, _ = socket.recv_fds(sock, _LONGEST, 4)
            if not request:
                os._exit(0)
            if (pid := os.fork()) == 0:
                selector.close()  # or it closes another file of that number once collected
                for each in (sock, *telling.values()):
                    each.close()
                _become(json.loads(request), files)
                return
            teller = socket.socket(fileno=files.pop())
            teller.send(str(pid).encode())
            telling[pid] = teller
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            for file in files:
                os.close(file)


def _become(request: dict[str, Any], files: Sequence[int]) -> None:
    """Take on exactly what a process started for the request would have."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [str(_REPOSITORY / "smtpproxy" / "__main__.py"), *request["arguments"]]
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace")


def _run() -> NoReturn:
    """Run the command, and end like Python, without tearing down all modules."""
    from smtpproxy.__main__ import main

    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _load()
    _wait_for_a_command(socket.socket(fileno=int(sys.argv[1])))
    _run()
