"""How many files and connections a process may have open."""

import os
import resource
import sys
from contextlib import suppress


def raise_limit() -> None:
    """Raise the limit of this process, and of those it forks, as far as it may.

    The usual 1,024 are for programs that use select(2), which ours do not.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != most:
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def room_for_clients() -> int:
    """Return the first file number that clients may not have.

    An eighth is kept for what accepted clients need: connections to the upstream, spooled bodies
    and the store.
    """
    permitted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return permitted - permitted // 8


def next_file() -> int:
    """Return the lowest free number, which the next file gets; if there is none, one above all."""
    try:
        number = os.eventfd(0)  # the cheapest file
    except OSError:
        return sys.maxsize
    os.close(number)
    return number
