"""Subprocesses that cannot outlive their test.

Each runs in its own process group with its output in a file. Their owner ends them, or the
watchdog fixture of tests/conftest.py, or the kernel if the test process itself is killed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kit import warm
from tests.kit.ports import wait_for

_running: set["Running"] = set()


class Running:
    """A started program. `output` is everything it wrote to stdout and stderr."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        cold: bool = False,
    ) -> None:
        """`cold`: start even the relay as users do (tests/kit/warm.py)."""
        self.argv = list(argv)
        self.output_path = output
        self.process: subprocess.Popen[bytes] | warm.ForkedCommand
        with output.open("ab") as file:
            if warm.begins(argv, env) and not cold:
                self.process = warm.ForkedCommand(
                    argv[3:], stdout=file, stderr=file, env=env, cwd=cwd
                )
            else:
                self.process = subprocess.Popen(
                    [*_dies_with_us(), *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=None if env is None else {**os.environ, **env},
                    cwd=cwd,
                    start_new_session=True,
                )
        _running.add(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = 30.0) -> int:
        """Return the exit code; raises AssertionError if it keeps running."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[0]} still runs after {timeout:g} s") from None
        self._signal_group(signal.SIGKILL)  # children it left behind
        _running.discard(self)
        return code

    def terminate(self, timeout: float = 30.0) -> int:
        """Send SIGTERM to the process itself and wait; return the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL the whole group."""
        self._signal_group(signal.SIGKILL)
        self.process.wait(10)
        _running.discard(self)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel kill the program when this process ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def running() -> frozenset[Running]:
    """Everything started here that has not ended yet."""
    return frozenset(_running)


def kill_all(processes: frozenset[Running]) -> None:
    """End these, whatever their state."""
    for process in processes:
        with contextlib.suppress(Exception):
            process.kill()


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, children first (Linux)."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(word) for word in path.read_text().split()]
                found += children
                todo += children
    return found


def name(pid: int) -> str:
    """The name of a process in `ps -e`; empty if it is gone (Linux)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def run(
    *argv: str,
    stdin: bytes = b"",
    timeout: float = 60.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; replaces undecodable output, accepts any exit code."""
    if warm.begins(argv, env) and not stdin:
        done = warm.run(argv[3:], timeout=timeout, cwd=cwd, env=env)
    else:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            check=False,
        )
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )


def wait_exit(pid: int, timeout: float = 10.0) -> None:
    """Wait until a process that is not our child is gone or a zombie."""

    def ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    wait_for(ended, f"end of process {pid}", timeout=timeout)
