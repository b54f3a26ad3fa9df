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
    assert first.surplus(0)[0] == 0
    third.ask(listens=True)
    assert third.others_had() == clock.now
    assert (first.surplus(0)[0], second.surplus(0)[0]) == (6, 1)  # the third has none
    second.hold(1)
    assert (second.surplus(0)[0], second.surplus(1)[0]) == (0, 1)  # its only one is busy, or idle
    second.hold(6)
    third.hold(5)
    assert (first.surplus(0)[0], second.surplus(0)[0]) == (4, 0)
    assert second.surplus(3)[0] == 2  # idle ones
    clock.now += 2
    assert first.surplus(6)[0] == 0  # the wish is old


def test_an_upstream_that_does_not_listen_gets_room_once(tmp_path: Path) -> None:
    """It looks after fifteen seconds: until then nobody has what is given up."""
    clock = Clock()
    first, second, third = (Workers.sharing(tmp_path / "upstream", clock) for _ in range(3))
    first.hold(10)
    second.hold(1)
    second.ask(listens=True)
    assert first.surplus(0) == (4, 2.5)
    second.ask(listens=False)
    assert first.surplus(0) == (4, 16.0)
    third.ask(listens=False)
    assert second.surplus(1) == (0, 16.0)  # it keeps its only one, busy or idle
    for _ in range(4):
        clock.now += 4
        second.hold(1)
        third.ask(listens=False)
    assert second.surplus(1) == (1, 16.0)


def test_the_next_turn_is_that_of_who_has_been_without_for_longest(tmp_path: Path) -> None:
    clock = Clock()
    workers = [Workers.sharing(tmp_path / "upstream", clock) for _ in range(3)]
    for worker in workers:
        clock.now += 1
        worker.have_one()
    for worker in workers:
        worker.ask(listens=True)
    assert [worker.another_is_next() for worker in workers] == [False, True, True]
    workers[0].hold(1)
    assert [worker.another_is_next() for worker in workers[1:]] == [False, True]


def test_a_worker_that_is_gone_leaves_its_entry_to_the_next(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "upstream"
    gone, other = Workers.sharing(path, clock), Workers.sharing(path, clock)
    gone.hold(20)
    other.hold(1)
    clock.now += 4
    other.hold(1)
    clock.now += 2
    assert other.others_had() is None
    Workers.sharing(path, clock).hold(3)
    assert gone.others_had() is not None
    assert path.stat().st_size == TABLE_SIZE // 512 * 2


def test_a_file_of_another_kind_or_of_before_a_reboot_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    path.write_bytes(b"\xff" * 320)
    clock = Clock()
    Workers.sharing(path, clock).hold(5)
    clock.now = 3.0  # the machine has started again
    assert Workers.sharing(path, clock).others_had() is None


def test_workers_outlive_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """Mapped into memory, it ended every worker with SIGBUS, as did a full disk."""
    clock = Clock()
    path = tmp_path / "upstream"
    first, second = Workers.sharing(path, clock), Workers.sharing(path, clock)
    first.hold(12)
    path.write_bytes(b"")
    second.ask(listens=True)
    assert second.others_had() is None
    first.hold(12)
    second.ask(listens=True)
    assert second.others_had() == clock.now
    assert first.surplus(0)[0] == 6


def test_workers_without_room_for_a_file_go_on(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "upstream"
    path.symlink_to("/dev/full")
    worker = Workers.sharing(path, clock)
    worker.hold(12)
    worker.ask(listens=True)
    assert (worker.others_had(), worker.surplus(0)[0]) == (None, 0)
