"""When anchors are taken: checked once a second, off the mail path, with the disk in a thread."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from smtpproxy.sinks.audit.anchors import Anchor, AnchorRow, Why, newest, take
from smtpproxy.sinks.audit.files import ANCHORS, ROTATION_REQUEST

ANCHOR_SECONDS = 60.0
ANCHOR_LINES = 100_000

CHECK_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(eq=False)
class AnchorScheduler:
    """Takes anchors for one journal while it has a file open.

    `lines` returns how many lines the journal has; `anchored` is called with each anchor
    (and adds one line for it); `rotate` begins a new file; `time_passed` gets the time.
    """

    folder: Path
    now: Callable[[], datetime]
    lines: Callable[[], int]
    anchored: Callable[[Anchor], None]
    rotate: Callable[[], None]
    time_passed: Callable[[datetime], None]

    def __post_init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._taking = threading.Lock()  # so that the last anchor comes last
        self._ended = False
        self._asked = 0
        self._due_after = 0.0
        self._known_size = 0
        self._unsealed = False
        self._changes = self.folder  # the newest file of the journal of changes, once there is one
        self._known_changes = 0  # its octets
        self._unsealed_changes = False
        self._quiet_until = 0  # no news up to this line
        self._set_back_from: datetime | None = None  # for the next anchor to say

    def file_started(self) -> None:
        self._ended = False
        self._asked = self._request()
        self._changes = max(self.folder.glob("changes-*.ndjson"), default=self.folder)
        self._anchor("begin")
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def time_went_back(self, before: datetime) -> None:
        """Take an anchor. Until one says that the clock was set back, new rows look forged, and so
        do those of before that no anchor has seen yet."""
        self._set_back_from = before
        self._anchor("time")

    def close(self) -> None:
        """Take the last anchor, at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self._task is not None:
                self._task.cancel()
            self._ended = True
            self._report(self._take("end", 0.0))

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CHECK_SECONDS, self._check)
        self.time_passed(self.now())
        if self._request() != self._asked:
            self.rotate()
            return
        self._check_anchors()
        self._check_changes()
        news = self.lines() - self._quiet_until
        if news >= ANCHOR_LINES:
            self._anchor("lines")
        elif (
            news > 0 or self._unsealed or self._unsealed_changes
        ) and loop.time() >= self._due_after:
            self._anchor("time")

    def _request(self) -> int:
        """Return when a new file was last requested, as that file's time; 0 for never."""
        try:
            return (self.folder / ROTATION_REQUEST).stat().st_mtime_ns
        except OSError:
            return 0

    def _check_anchors(self) -> None:
        """Note an erasure or the like: an anchor has to make it known outside this machine."""
        try:
            size = (self.folder / ANCHORS).stat().st_size
            if size != self._known_size:
                last = newest(self.folder)
                self._unsealed = last is not None and not isinstance(last.row, AnchorRow)
        except OSError:
            return
        self._known_size = size

    def _check_changes(self) -> None:
        """Note new changes: an anchor will expose a copy of their journal that lacks them."""
        # After a clock that was ahead, it goes on in the file of that month.
        path = max(self._changes, self.folder / f"changes-{self.now():%Y-%m}.ndjson")
        try:
            size = path.stat().st_size
        except OSError:
            return
        self._changes = path
        if size != self._known_changes:
            self._known_changes, self._unsealed_changes = size, True

    def _anchor(self, why: Why) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._anchor_aside(why))

    async def _anchor_aside(self, why: Why) -> None:
        loop = asyncio.get_running_loop()
        seen, seen_changes = self.lines(), self._known_changes
        # Another worker's anchor covers this one's files too.
        unless_within = ANCHOR_SECONDS / 2 if why == "time" else 0.0
        anchor = await loop.run_in_executor(None, self._take, why, unless_within)
        # The anchor's own line is no news; lines written while it was taken are.
        own = anchor is not None and self.lines() == seen
        self._quiet_until = seen + own
        self._due_after = loop.time() + ANCHOR_SECONDS
        self._task = None
        self._report(anchor)
        if anchor is not None:
            self._unsealed_changes = self._known_changes != seen_changes
            self.anchored(anchor)

    def _take(self, why: Why, unless_within: float) -> Anchor | None:
        with self._taking:
            if self._ended and why != "end":
                return None
            before, self._set_back_from = self._set_back_from, None
            try:
                return take(self.folder, why, self.now, before, unless_within=unless_within)
            except OSError as error:
                self._set_back_from = before
                log.warning("no audit anchor", why=why, error=str(error))
                return None

    def _report(self, anchor: Anchor | None) -> None:
        """Log an anchor, for the log collector to have a copy."""
        if anchor is not None and isinstance(anchor.row, AnchorRow):
            heads = {slot: f"{head.n} {head.hash}" for slot, head in anchor.row.heads.items()}
            end = anchor.row.changes
            changes = {} if end is None else {"changes": f"{end.n} {end.hash}"}
            log.info(
                "audit anchor",
                why=anchor.row.why,
                n=anchor.n,
                hash=anchor.hash,
                heads=heads,
                **changes,
            )
