"""Which worker may have how many of the connections that the upstream takes."""

from pathlib import Path

from smtpproxy.relay.upstream_limit import TABLE_SIZE, Workers


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_workers_see_each_other_through_a_file(tmp_path: Path) -> None:
    clock = Clock()
    first, second, third = (Workers.sharing(tmp_path / "upstream", clock) for _ in range(3))
    first.hold(12)
    second.hold(6)
    assert first.share() is None
    assert third.ask() == clock.now
    assert (first.share(), second.share()) == (6, 6)
    clock.now += 2
    assert first.share() is None  # the wish is old


def test_a_worker_that_is_gone_leaves_its_entry_to_the_next(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "upstream"
    gone, other = Workers.sharing(path, clock), Workers.sharing(path, clock)
    gone.hold(20)
    other.hold(1)
    clock.now += 4
    other.hold(1)
    clock.now += 2
    assert other.ask() is None
    Workers.sharing(path, clock).hold(3)
    assert gone.ask() is not None
    assert path.stat().st_size == TABLE_SIZE


def test_a_file_of_another_kind_or_of_before_a_reboot_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    path.write_bytes(b"\xff" * 320)
    clock = Clock()
    Workers.sharing(path, clock).hold(5)
    clock.now = 3.0  # the machine has started again
    assert Workers.sharing(path, clock).ask() is None
