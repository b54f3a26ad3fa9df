"""Many deadlines that share one timer."""

import asyncio

from smtpproxy.waiting import NEVER, Deadline, Deadlines


class Loop:
    """A loop whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, object]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: object) -> object:
        timer = (self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def run(self, until: float) -> None:
        while self.timers and self.timers[0][0] <= until:
            self.now, callback = self.timers.pop(0)
            callback()  # type: ignore[operator]
        self.now = until


def deadlines(resolution: float = 0.25) -> tuple[Loop, Deadlines]:
    loop = Loop()
    return loop, Deadlines(loop, resolution)  # type: ignore[arg-type]


def test_a_deadline_expires_once_and_not_early() -> None:
    loop, watched = deadlines()
    expired: list[float] = []
    deadline = watched.watch(lambda: expired.append(loop.now))
    deadline.at = 1.0
    loop.run(0.99)
    assert expired == []
    loop.run(10)
    assert len(expired) == 1
    assert 1.0 <= expired[0] <= 1.25


def test_a_deadline_can_be_moved_cleared_and_forgotten() -> None:
    loop, watched = deadlines()
    expired: list[str] = []
    moved, cleared, forgotten = (
        watched.watch(lambda name=name: expired.append(name))  # type: ignore[misc]
        for name in ("moved", "cleared", "forgotten")
    )
    for deadline in (moved, cleared, forgotten):
        deadline.at = 1.0
    loop.run(0.5)
    moved.at = 2.0
    cleared.at = NEVER
    watched.forget(forgotten)
    loop.run(1.9)
    assert expired == []
    loop.run(3)
    assert expired == ["moved"]


def test_a_deadline_can_be_set_again_after_it_expired() -> None:
    loop, watched = deadlines()
    expired: list[float] = []

    def again() -> None:
        expired.append(loop.now)
        deadline.at = loop.now + 1

    deadline: Deadline = watched.watch(again)
    deadline.at = 1.0
    loop.run(3.6)
    assert len(expired) == 3


def test_thousands_of_deadlines_share_one_timer_until_the_last() -> None:
    loop, watched = deadlines()
    many = [watched.watch(lambda: None) for _ in range(5000)]
    for number, deadline in enumerate(many):
        deadline.at = number / 1000
    assert len(loop.timers) == 1
    loop.run(6)
    assert {deadline.at for deadline in many} == {NEVER}
    for deadline in many:
        watched.forget(deadline)
    loop.run(7)
    assert loop.timers == []
    watched.watch(lambda: None)
    assert len(loop.timers) == 1


def test_a_callback_may_forget_and_watch_other_deadlines() -> None:
    loop, watched = deadlines()
    expired: list[str] = []

    def first() -> None:
        expired.append("first")
        watched.forget(one)
        watched.forget(other)
        watched.watch(lambda: expired.append("late")).at = 0

    one = watched.watch(first)
    other = watched.watch(lambda: expired.append("other"))
    one.at = 1.0
    loop.run(5)
    assert expired == ["first", "late"]


async def test_deadlines_work_on_a_real_loop() -> None:
    watched = Deadlines(asyncio.get_running_loop(), resolution=0.01)
    expired = asyncio.Event()
    start = watched.now()
    watched.watch(expired.set).at = start + 0.05
    await asyncio.wait_for(expired.wait(), 5)
    assert watched.now() >= start + 0.05
