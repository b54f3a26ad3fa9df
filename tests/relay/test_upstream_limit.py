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
    assert first.surplus(0) == 0
    assert third.ask() == clock.now
    assert (first.surplus(0), second.surplus(0)) == (6, 1)  # the third has none
    second.hold(1)
    assert (second.surplus(0), second.surplus(1)) == (0, 1)  # its only one is busy, or idle
    second.hold(6)
    third.hold(5)
    assert (first.surplus(0), second.surplus(0)) == (4, 0)
    assert second.surplus(3) == 2  # idle ones
    clock.now += 2
    assert first.surplus(6) == 0  # the wish is old


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
    assert path.stat().st_size == TABLE_SIZE // 512 * 2


def test_a_file_of_another_kind_or_of_before_a_reboot_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    path.write_bytes(b"\xff" * 320)
    clock = Clock()
    Workers.sharing(path, clock).hold(5)
    clock.now = 3.0  # the machine has started again
    assert Workers.sharing(path, clock).ask() is None


def test_workers_outlive_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """Mapped into memory, it ended every worker with SIGBUS, as did a full disk."""
    clock = Clock()
    path = tmp_path / "upstream"
    first, second = Workers.sharing(path, clock), Workers.sharing(path, clock)
    first.hold(12)
    path.write_bytes(b"")
    assert second.ask() is None
    first.hold(12)
    assert second.ask() == clock.now
    assert first.surplus(0) == 6


def test_workers_without_room_for_a_file_go_on(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "upstream"
    path.symlink_to("/dev/full")
    worker = Workers.sharing(path, clock)
    worker.hold(12)
    assert (worker.ask(), worker.surplus(0)) == (None, 0)
