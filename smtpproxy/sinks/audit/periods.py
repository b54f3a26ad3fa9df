"""Which files of a slot may hold lines of a period, also where the clock was set back or ahead.

A file's name tells when it was begun, unless the clock was behind the file before: it then has
that one's time, to be sorted behind it, and only its first line tells.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby, pairwise

from smtpproxy.sinks.audit.chain import NotALine
from smtpproxy.sinks.audit.files import Segment
from smtpproxy.sinks.audit.lines import time_of

_MIN = datetime.min.replace(tzinfo=UTC)
_MAX = datetime.max.replace(tzinfo=UTC)


def of_period(
    files: Sequence[Segment],
    since: datetime | None,
    until: datetime | None,
    *,
    and_next: bool = False,
) -> Iterator[Sequence[Segment]]:
    """Yield the files of a slot that may hold lines of a period; adjacent ones come together.

    `and_next`: with the file behind them, which has answers to the last messages, and may have
    been begun while the clock was ahead.
    """
    chosen = [
        ((until is None or first < until) and (since is None or last >= since))
        # A process whose clock was set back goes on with ids of the time before.
        or (since is not None and until is not None and since <= segment.begun < until)
        for segment, (first, last) in zip(files, _spans(files, and_next), strict=True)
    ]
    for wanted, group in groupby(zip(chosen, files, strict=True), key=lambda each: each[0]):
        if wanted:
            yield [segment for _, segment in group]


def _spans(files: Sequence[Segment], early: bool) -> Iterator[tuple[datetime, datetime]]:
    """Yield between which times each file was written; `early`: from that of the one before on.

    So it is where the next one is dated earlier: the clock was set back, perhaps in this one. A
    file ends where one begins that is dated later.
    """
    begun = begun_times(files)
    for number, time in enumerate(begun):
        following = (begun[later] for later in range(number + 1, len(begun)))
        end = next((later for later in following if later > time), _MAX)
        before = begun[number - 1] if number else _MIN
        set_back = number + 1 < len(begun) and begun[number + 1] < time
        yield min(before, time) if early or set_back else time, end


def begun_times(files: Sequence[Segment]) -> list[datetime]:
    """Return when each file of a slot was begun, by the clock of that time."""
    times = [segment.begun for segment in files]
    for number, (before, segment) in enumerate(pairwise(files), 1):
        if segment.begun == before.begun:
            with segment.path.open("rb") as lines, suppress(NotALine):
                times[number] = time_of(lines.readline())
    return times
