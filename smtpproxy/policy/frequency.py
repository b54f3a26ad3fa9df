"""How often a person may be mailed: caps such as `3/7d` (rule A28; design.md section 4.12)."""

import re
from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from smtpproxy.policy.periods import Period, Unit, end, within

_CAP = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})([hdw])")
_UNITS = {"h": (1, Unit.HOURS), "d": (1, Unit.DAYS), "w": (7, Unit.DAYS)}


class Cap(Struct, frozen=True):
    """So many messages to one person in a period; a message counts until it is over."""

    count: int
    period: Period

    def __str__(self) -> str:
        return f"{self.count} in {self.period}"

    def free_at(self, mailed: Iterable[datetime], now: datetime) -> datetime | None:
        """Return when the cap will no longer be reached; None: it is not reached at `now`.

        `mailed` are the moments of earlier messages, in any order.
        """
        counted = sorted([at for at in mailed if within(at, self.period, now)])
        if len(counted) < self.count:
            return None
        return end(counted[-self.count], self.period)


def parse_cap(text: str) -> Cap:
    """Read `3/7d`: a count, and hours (h), days (d) or weeks (w). Raises ValueError."""
    match = _CAP.fullmatch(text)
    if match is None:
        raise ValueError(
            'must be so many messages in so much time, like "3/7d" or "1/24h"'
            " (hours, days and weeks are h, d and w)"
        )
    factor, unit = _UNITS[match[3]]
    return Cap(int(match[1]), Period(factor * int(match[2]), unit))
