"""How many files and connections a process may have open."""

import os
import resource
import sys


def raise_limit() -> None:
    """Permit this process, and those it forks, as many as it may permit itself.

    The usual limit of 1,024 is there for programs that use select(2), which none of ours does.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def room_for_clients() -> int:
    """Return the first file number that clients may not have.

    An eighth of them is kept for what accepted clients
    need: connections to the upstream, spooled bodies and the store.
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
