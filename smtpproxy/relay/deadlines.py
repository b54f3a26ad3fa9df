"""Deadlines for many connections with one timer.

A timer of its own for every exchange costs more than the exchange's own code; a sweep
a few times a second over plain numbers does not.
"""

import asyncio
from collections.abc import Callable

NEVER = float("inf")


class Deadline:
    """A moment on the loop's clock after which `expired` is called, once."""

    __slots__ = ("at", "expired")

    def __init__(self, expired: Callable[[], None]) -> None:
        self.at = NEVER
        self.expired = expired

    def clear(self) -> None:
        self.at = NEVER


class Deadlines:
    """Sweeps all deadlines; they expire up to `resolution` seconds late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolution: float = 0.25) -> None:
        self.now = loop.time
        self._loop = loop
        self._resolution = resolution
        self._watched: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, expired: Callable[[], None]) -> Deadline:
        deadline = Deadline(expired)
        self._watched.add(deadline)
        if self._timer is None:
            self._timer = self._loop.call_later(self._resolution, self._sweep)
        return deadline

    def forget(self, deadline: Deadline) -> None:
        deadline.clear()
        self._watched.discard(deadline)

    def _sweep(self) -> None:
        now = self.now()
        late = [deadline for deadline in self._watched if deadline.at <= now]
        self._timer = (
            self._loop.call_later(self._resolution, self._sweep) if self._watched else None
        )
        for deadline in late:
            if deadline.at > now:
                continue  # another one's end has moved or forgotten it
            deadline.clear()
            deadline.expired()
