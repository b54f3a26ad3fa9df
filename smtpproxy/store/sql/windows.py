"""The parts of a window that what streams sent is counted in."""

from datetime import datetime, timedelta

from smtpproxy.store.sql.rows import to_micros

WINDOW_PARTS = 1_000
"""Of a window. A part that is not wholly within it, or not wholly after a resume, is left out."""


def window_part_width(window: float) -> int:
    """Microseconds of one part of the window."""
    return max(1, int(timedelta(seconds=window / WINDOW_PARTS) / timedelta(microseconds=1)))


def window_part(at: datetime, window: float) -> int:
    """The beginning of the part that a moment is in."""
    moment = to_micros(at)
    return moment - moment % window_part_width(window)
