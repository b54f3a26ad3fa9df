"""Connecting to the first address of a name that answers.

The event loops ask one address after the other, within one timeout, and uvloop knows no other way:
they would never get past a dead machine, which does not say that it is dead.
"""

import asyncio
import ipaddress
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from socket import SOCK_STREAM, getaddrinfo
from typing import Any, TypeVar

_PAUSE = 0.25  # seconds for each address before the next is asked too (RFC 8305)
_MOST = 16  # addresses of a name, however many the DNS has

_LOOKUPS = ThreadPoolExecutor(4, "names")
"""Not the threads of the event loop, which waits for them when it is closed, and so for the DNS."""

T = TypeVar("T")


Place = tuple[str, int]
"""An address and a port."""


async def addresses(host: str, port: int) -> list[Place]:
    """Return the addresses of a name that may be tried. Raises OSError."""
    if _is_literal(host):
        return [(host, port)]
    loop = asyncio.get_running_loop()
    look_up = partial(getaddrinfo, host, port, type=SOCK_STREAM)
    found = await loop.run_in_executor(_LOOKUPS, look_up)
    return list(dict.fromkeys((str(where[0]), int(where[1])) for *_, where in found))[:_MOST]


async def first_address(places: Sequence[Place], connect: Callable[[str, int], Awaitable[T]]) -> T:
    """Return the first connection that `connect` makes: a pair, the second of which closes it.
    Raises what it raises."""
    attempts = [partial(connect, *place) for place in places]
    made, _, errors = await first_made(attempts, _PAUSE, lambda made: made[1].close())
    if made is None:
        raise next(error for error in errors if error is not None)
    return made


async def first_made(
    attempts: Sequence[Callable[[], Awaitable[T]]], pause: float, close: Callable[[Any], None]
) -> tuple[T | None, int | None, list[Exception | None]]:
    """Return what the first attempt makes, as `staggered_race` does, which waits until the others
    have ended: what it would lose if it is cancelled meanwhile is closed."""
    if len(attempts) == 1:  # a race leaves work to the garbage collector
        try:
            return await attempts[0](), 0, [None]
        except Exception as error:
            return None, None, [error]
    made: list[T] = []

    async def noted(attempt: Callable[[], Awaitable[T]]) -> T:
        made.append(await attempt())
        return made[-1]

    try:
        return await staggered_race([partial(noted, attempt) for attempt in attempts], pause)
    except BaseException:
        for each in made:
            close(each)
        raise


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
