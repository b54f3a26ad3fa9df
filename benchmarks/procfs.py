"""CPU time and memory of processes, read from /proc."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of the children they have reaped."""
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size: shared pages are counted once over all processes.

    It excludes the store's mapped pages, which are the kernel's cache of the file.
    """
    total = 0
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/smaps").read_text()
        except OSError:
            continue
        counted = True
        for line in maps.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024 if counted else 0
            elif line[:1] in "0123456789abcdef":  # the start of a mapping: its addresses and file
                counted = not line.endswith(".db")
    return total


class PeakMemory:
    """Samples the memory of processes in a thread during a `with` block."""

    def __init__(self, pids: Callable[[], Iterable[int]], every: float = 0.05) -> None:
        self.peak = 0
        self._pids = pids
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.is_set():
            self.peak = max(self.peak, pss_bytes(self._pids()))
            self._done.wait(self._every)
