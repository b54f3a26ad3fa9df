"""Waiting without a task, a future or a timer for each time.

On the mail path nearly everything that is waited for is one reply of the upstream. A future and
a task would take two turns of the loop for it; a `Pending` calls back at once. A timer of its own
for every exchange costs more than the exchange's own code; a sweep a few times a second over
plain numbers (`Deadlines`) does not.
"""

from __future__ import annotations  # of functions within functions: each costs a call

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Pending(Generic[T]):
    """An answer that is given once: a value, or an error. One party may wait for it.

    That party leaves a callback, or awaits it in a coroutine.
    """

    __slots__ = ("_callback", "_source", "done", "error", "value")

    def __init__(
        self, value: T | None = None, error: BaseException | None = None, *, done: bool = False
    ) -> None:
        self.done = done
        self.value: Any = value
        self.error = error
        self._callback: Callable[[Pending[T]], None] | None = None
        self._source: Pending[Any] | asyncio.Future[Any] | None = None

    @classmethod
    def of(cls, awaitable: Awaitable[T]) -> Pending[T]:
        """Wait for a coroutine in a task, for what cannot do without."""
        pending = cls()
        task = pending._source = asyncio.ensure_future(awaitable)
        task.add_done_callback(pending._task_ended)
        return pending

    @classmethod
    def settled(cls, value: T) -> Pending[T]:
        """An answer that is there already."""
        return cls(value, done=True)

    @classmethod
    def failed(cls, error: BaseException) -> Pending[T]:
        return cls(error=error, done=True)

    def result(self) -> T:
        """The answer, once it is there; raises the error if it is one."""
        if self.error is not None:
            raise self.error
        value: T = self.value
        return value

    def settle(self, value: T, error: BaseException | None = None) -> None:
        """Give the answer; whoever waits is called before this returns. The first one counts.

        What waited and what was waited for are let go of: as a cycle, all that belongs to a
        message would stay in memory until the collector comes, and cost a third more.
        """
        if self.done:
            return
        self.done = True
        self.value = value
        self.error = error
        callback = self._callback
        self._callback = self._source = None
        if callback is not None:
            callback(self)

    def fail(self, error: BaseException) -> None:
        """Give an error for an answer, as `settle` does."""
        self.settle(None, error)  # type: ignore[arg-type]

    def when_done(self, callback: Callable[[Pending[T]], None]) -> None:
        """Call back when the answer is there; at once if it is."""
        if self.done:
            callback(self)
        else:
            self._callback = callback

    def after(self, work: Awaitable[None], failed: Callable[[BaseException], None]) -> None:
        """Leave the answer to a coroutine in a task; `failed` is called where that fails."""
        task = self._source = Pending.of(work)
        task.when_done(lambda ended: None if ended.error is None else failed(ended.error))

    def then(self, convert: Callable[[Pending[T]], U]) -> Pending[U]:
        """What `convert` makes of this answer when it is there, or raises."""
        converted: Pending[U] = Pending()
        converted._source = self

        def answered(answer: Pending[T]) -> None:
            try:
                value = convert(answer)
            except Exception as error:
                converted.fail(error)
            else:
                converted.settle(value)

        self.when_done(answered)
        return converted

    def otherwise(self, instead: Callable[[Pending[T]], Pending[T] | None]) -> Pending[T]:
        """This answer, or the one that `instead` returns once this is there, and never raises."""
        chosen: Pending[T] = Pending()
        chosen._source = self

        def answered(answer: Pending[T]) -> None:
            other = instead(answer)
            if other is None:
                chosen.settle(answer.value, answer.error)
                return
            chosen._source = other
            other.when_done(lambda other: chosen.settle(other.value, other.error))

        self.when_done(answered)
        return chosen

    def cancel(self) -> None:
        """Nobody waits any more: tasks that work for it are cancelled."""
        self._callback = None
        if self._source is not None:
            self._source.cancel()

    def _task_ended(self, task: asyncio.Future[T]) -> None:
        if task.cancelled():
            self.fail(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.settle(task.result())

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._callback = lambda _: None if future.done() else future.set_result(None)
            try:
                yield from future
            finally:
                if not self.done:  # who waits is cancelled
                    self.cancel()
        return self.result()


_TURNS = 8


async def accepted_are_told() -> None:
    """Wait until the protocol of every connection that the event loop has accepted knows of it."""
    for _ in range(_TURNS):  # some of them, after which a loop has called `connection_made`
        await asyncio.sleep(0)


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
        self.add(deadline)
        return deadline

    def add(self, deadline: Deadline) -> None:
        """Watch one that was made before."""
        self._watched.add(deadline)
        if self._timer is None:
            self._timer = self._loop.call_later(self._resolution, self._sweep)

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
