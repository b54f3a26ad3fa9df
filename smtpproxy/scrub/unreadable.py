"""The lines of a list that cannot be read."""

from collections.abc import Callable
from pathlib import Path

from smtpproxy.scrub.drafts import Drafts
from smtpproxy.store.exchange.lines import MAX_LINE, ImportFault, Rejected
from smtpproxy.store.exchange.rejected import RejectedFile

_TOLD = 5


class Unreadable:
    """Puts them into a FILE.rejected; where there is to be none, tells of the first few.

    `header` is that of the list. `tell` takes the number of a line and its fault, which
    hold nothing of the line itself. `keep`: nobody chose `path`, so that a file which is
    there and is no FILE.rejected is not touched.
    """

    def __init__(
        self,
        drafts: Drafts,
        path: Path | None,
        tell: Callable[[str], None],
        *,
        keep: bool = False,
    ) -> None:
        self.path = path
        self.header: bytes | None = None
        self._drafts = drafts
        self._tell = tell
        self._keep = keep
        self._file: RejectedFile | None = None
        self._count = 0

    def put(self, rejected: Rejected) -> None:
        self._count += 1
        if self.path is not None:
            if self._file is None:
                if self._keep and self.path.exists() and not _is_rejected_file(self.path):
                    raise ImportFault(
                        f"{self.path} is there and is no file of lines put aside;"
                        " name another with --rejected"
                    )
                self._file = RejectedFile(self._drafts.reserve(self.path))
                self._file.header = self.header
            self._file.write(rejected)
        elif self._count <= _TOLD:
            self._tell(f"line {rejected.number}: {rejected.reason}")
        elif self._count == _TOLD + 1:
            self._tell("more lines cannot be read; --rejected FILE keeps them with their reasons")

    def close(self) -> None:
        """Finish the file; that of an earlier run goes when now all could be read."""
        if self._file is not None:
            self._file.close()
        elif self._keep and self.path is not None and _is_rejected_file(self.path):
            self.path.unlink()


def _is_rejected_file(path: Path) -> bool:
    """Tell by its first comment, which stands on top or below a CSV header."""
    try:
        with path.open("rb") as file:
            return any(file.readline(MAX_LINE).startswith(b"# line ") for _ in range(2))
    except OSError:
        return False
