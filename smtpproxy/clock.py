"""The machine's clock, for the entry points; everything below them is given the time."""

import os
import time
from datetime import UTC, datetime
from functools import partial

from smtpproxy.events import UlidFactory

now = partial(datetime.now, UTC)


def milliseconds() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_ids() -> UlidFactory:
    return UlidFactory(milliseconds, os.urandom)
