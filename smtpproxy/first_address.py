"""Connecting to the first address of a name that answers.

The event loops ask one address after the other, within one timeout, and uvloop knows no other way:
they would never get past a dead machine, which does not say that it is dead.
"""

import asyncio
import ipaddress
import socket
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

_PAUSE = 0.25  # seconds for each address before the next is asked too (RFC 8305)

T = TypeVar("T")


async def first_address(host: str, port: int, connect: Callable[[str, int], Awaitable[T]]) -> T:
    """Return the first connection that `connect` makes. Raises what it raises, and OSError."""
    if _is_literal(host):
        return await connect(host, port)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = dict.fromkeys((str(where[0]), int(where[1])) for *_, where in found)
    made: T | None
    made, _, errors = await staggered_race([partial(connect, *place) for place in places], _PAUSE)
    if made is None:
        raise next(error for error in errors if error is not None)
    return made


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
