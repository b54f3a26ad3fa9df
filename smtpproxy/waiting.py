"""Waiting without a task, a future or a timer each time.

On the mail path nearly every wait is for one reply of the upstream. A future and a task would take
two turns of the loop for it; a `Pending` calls back immediately. A timer for every exchange would
cost more than the exchange's own code; a sweep over numbers a few times a second (`Deadlines`) does
not.
"""

from __future__ import annotations  # those of nested functions would each cost a call

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Pending(Generic[T]):
    """An answer that is given once: a value, or an error.

    One party may wait for it, by a callback or by awaiting it in a coroutine.
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
        """Run a coroutine in a task, where one is unavoidable."""
        pending = cls()
        task = pending._source = asyncio.ensure_future(awaitable)
        task.add_done_callback(pending._task_ended)
        return pending

    @classmethod
    def settled(cls, value: T) -> Pending[T]:
        """An answer that is already known."""
        return cls(value, done=True)

    @classmethod
    def failed(cls, error: BaseException) -> Pending[T]:
        return cls(error=error, done=True)

    def result(self) -> T:
        """The answer, once known; raises it if it is an error."""
        if self.error is not None:
            raise self.error
        value: T = self.value
        return value

    def settle(self, value: T, error: BaseException | None = None) -> None:
        """Give the answer and call back whoever waits. Only the first answer counts.

        References to the waiting party and what this waited for are dropped: otherwise everything
        that belongs to a message would be a cycle, stay in memory until it is collected, and cost a
        third more.
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
        """Give an error as the answer; see `settle`."""
        self.settle(None, error)  # type: ignore[arg-type]

    def when_done(self, callback: Callable[[Pending[T]], None]) -> None:
        """Call back with the answer, immediately if it is known."""
        if self.done:
            callback(self)
        else:
            self._callback = callback

    def after(self, work: Awaitable[None], failed: Callable[[BaseException], None]) -> None:
        """Run a coroutine that will give the answer in a task; `failed` is called if it fails."""
        task = self._source = Pending.of(work)
        task.when_done(lambda ended: None if ended.error is None else failed(ended.error))

    def then(self, convert: Callable[[Pending[T]], U]) -> Pending[U]:
        """Return a Pending whose answer is what `convert` returns for this one, or raises."""
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
        """Return a Pending with this answer, or the one that `instead`, which never raises,
        returns."""
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
        """Give up waiting; tasks that work for the answer are cancelled."""
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
                if not self.done:  # the waiting coroutine was cancelled
                    self.cancel()
        return self.result()


_TURNS = 8


async def wait_for_accepted() -> None:
    """Wait until every connection that the event loop has accepted has reached its protocol."""
    for _ in range(_TURNS):  # enough for a loop to have called `connection_made`
        await asyncio.sleep(0)


NEVER = float("inf")


class Expiring(Protocol):
    """What has a deadline: `expired` is called once, after the moment `at` on the loop's clock."""

    at: float

    def expired(self) -> None: ...


class Deadline:
    """The deadline of something that knows more than one, or whose deadline is seldom set."""

    __slots__ = ("at", "expired")

    def __init__(self, expired: Callable[[], None]) -> None:
        self.at = NEVER
        self.expired = expired


class Deadlines:
    """Sweeps all deadlines; they expire up to `resolution` seconds late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, resolution: float = 0.25) -> None:
        self.now = loop.time
        self._loop = loop
        self._resolution = resolution
        self._watched: set[Expiring] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, expired: Callable[[], None]) -> Deadline:
        deadline = Deadline(expired)
        self.add(deadline)
        return deadline

    def add(self, expiring: Expiring) -> None:
        """Watch a deadline made elsewhere."""
        self._watched.add(expiring)
        if self._timer is None:
            self._timer = self._loop.call_later(self._resolution, self._sweep)

    def forget(self, expiring: Expiring) -> None:
        expiring.at = NEVER
        self._watched.discard(expiring)

    def _sweep(self) -> None:
        now = self.now()
        late = [expiring for expiring in self._watched if expiring.at <= now]
        self._timer = (
            self._loop.call_later(self._resolution, self._sweep) if self._watched else None
        )
        for expiring in late:
            if expiring.at > now:
                continue  # moved or forgotten when another expired
            expiring.at = NEVER
            expiring.expired()
