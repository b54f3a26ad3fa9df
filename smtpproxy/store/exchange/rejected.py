"""FILE.rejected: the lines that were put aside, each under its number and reason.

It can be corrected and imported as it is: its own comment lines are skipped.
"""

from pathlib import Path
from typing import BinaryIO

from smtpproxy.store.exchange.lines import Rejected, comment


class RejectedFile:
    """Made with the first rejected line; one of an earlier run goes with `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.header: bytes | None = None  # of a CSV file, repeated so that this is one too
        self._file: BinaryIO | None = None

    def write(self, rejected: Rejected) -> None:
        if self._file is None:
            self._file = self.path.open("wb")
            if self.header is not None:
                self._file.write(self.header + b"\n")
        self.count += 1
        self._file.write(comment(rejected))
        for chunk in rejected.original:
            self._file.write(chunk)
        self._file.write(b"\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        else:
            self.path.unlink(missing_ok=True)
