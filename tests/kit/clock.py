"""A clock for running programs that tests move: libfaketime, with the time in a file."""

import time
from datetime import datetime
from pathlib import Path

_LIBRARY = "usr/lib/*/faketime/libfaketime.so.1"
_CACHED = "0"  # whole seconds to wait: a program looks at the file once a second
_SEEN_WITHIN = 2.1  # seconds: the call that looks still returns the old time, the next one the new


class MovedClock:
    """The wall clock of everything started with `env`; timers are not affected."""

    def __init__(self, path: Path, start: datetime) -> None:
        self._path = path
        self._set(start)
        (library,) = Path("/").glob(_LIBRARY)
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": _CACHED,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # the fix makes threads busy-wait
            "NO_FAKE_STAT": "1",  # files keep the times that tests give them
            "TZ": "UTC",
        }

    def move(self, to: datetime) -> None:
        """Set the time (UTC), and wait until every process has seen it. It runs on from there."""
        self._set(to)
        time.sleep(_SEEN_WITHIN)

    def _set(self, to: datetime) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(f"@{to:%Y-%m-%d %H:%M:%S}\n")
        beside.replace(self._path)
