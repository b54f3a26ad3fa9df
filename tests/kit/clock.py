"""A clock for programs that run, moved by the test: libfaketime, with the time in a file."""

import time
from datetime import datetime
from pathlib import Path

_LIBRARY = "usr/lib/*/faketime/libfaketime.so.1"
_CACHED = "0"  # whole seconds that must have passed: a program looks at the file in each second
_SEEN_WITHIN = 2.1  # seconds: the call that looks still tells the old time, the next the new


class MovedClock:
    """The wall clock of all that is started with `env`; timers go on as they are."""

    def __init__(self, path: Path, start: datetime) -> None:
        self._path = path
        self._set(start)
        (library,) = Path("/").glob(_LIBRARY)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": _CACHED,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # which has threads wait busily
            "NO_FAKE_STAT": "1",  # a file has the time that the test gave it
            "TZ": "UTC",
        }

    def move(self, to: datetime) -> None:
        """Move it, and wait until all that runs has seen it. UTC; from there it goes on."""
        self._set(to)
        time.sleep(_SEEN_WITHIN)

    def _set(self, to: datetime) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(f"@{to:%Y-%m-%d %H:%M:%S}\n")
        beside.replace(self._path)
