"""The machine's clock, for what starts the work: all below is given its time."""

import os
import time
from datetime import UTC, datetime
from functools import partial

from smtpproxy.events import UlidFactory

now = partial(datetime.now, UTC)


def milliseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1_000_000


def new_ids() -> UlidFactory:
    return UlidFactory(milliseconds, os.urandom)
