"""When the daily run is due, in local time."""

from datetime import datetime, time, timedelta


def latest(now: datetime, at: time) -> datetime:
    """Return the newest moment, not after `now`, at which the clock on the wall said `at`.

    Where the clock is put forward over it, an hour earlier; where it is put back, the first
    of the two. `now` is in any zone, the answer in the local one.
    """
    today = now.astimezone().date()
    for days in range(3):
        moment = datetime.combine(today - timedelta(days=days), at).astimezone()
        if moment <= now:
            return moment
    raise ValueError("no day has such a moment")


def is_due(last: datetime, now: datetime, at: time) -> bool:
    """Whether a moment for the run has come since `last`, when one was done."""
    return last < latest(now, at)
