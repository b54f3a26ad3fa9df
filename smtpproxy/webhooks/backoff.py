"""When a delivery that failed is tried again."""

from datetime import timedelta

FIRST = timedelta(seconds=1)
LONGEST = timedelta(hours=1)
_MOST_DOUBLINGS = 20


def pause(failures: int, random: float, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after so many failures in a row (1 or more).

    It doubles from a second to an hour, of which the last half is left to chance
    (`random`, 0 to 1), so that receivers that come back are not met by all at once. A
    receiver that asks for longer (Retry-After) gets it, up to an hour.
    """
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    whole = min(FIRST * (1 << doublings), LONGEST)
    wait = whole / 2 + whole / 2 * random
    return wait if asked is None else max(wait, min(asked, LONGEST))
