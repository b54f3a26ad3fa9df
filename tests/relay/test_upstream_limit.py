"""How many of the upstream's connections each worker may have."""

from pathlib import Path

from smtpproxy.relay.upstream_limit import TABLE_SIZE, Workers


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_workers_divide_connections_through_a_shared_file(tmp_path: Path) -> None:
    clock = Clock()
    first, second, third = (Workers.sharing(tmp_path / "upstream", clock) for _ in range(3))
    first.hold(12)
    second.hold(6)
    assert first.surplus(0)[0] == 0
    third.ask(listens=True)
    assert third.others_had() == clock.now
    assert (first.surplus(0)[0], second.surplus(0)[0]) == (6, 1)  # the third worker has none
    second.hold(1)
    assert (second.surplus(0)[0], second.surplus(1)[0]) == (0, 1)  # its only one is busy, then idle
    second.hold(6)
    third.hold(5)
    assert (first.surplus(0)[0], second.surplus(0)[0]) == (4, 0)
    assert second.surplus(3)[0] == 2  # all of them idle
    clock.now += 2
    assert first.surplus(6)[0] == 0  # the request is out of date


def test_room_is_made_only_once_for_an_upstream_that_does_not_listen(tmp_path: Path) -> None:
    """It listens again after 15 seconds; until then nobody can use a freed place."""
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


def test_the_next_turn_goes_to_the_worker_longest_without_a_connection(tmp_path: Path) -> None:
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


def test_a_new_worker_takes_the_entry_of_one_that_is_gone(tmp_path: Path) -> None:
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


def test_a_foreign_file_or_one_from_before_a_reboot_is_used(tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    path.write_bytes(b"\xff" * 320)
    clock = Clock()
    Workers.sharing(path, clock).hold(5)
    clock.now = 3.0  # after a reboot
    assert Workers.sharing(path, clock).others_had() is None


def test_workers_survive_a_file_that_is_cut_short(tmp_path: Path) -> None:
    """Mapped into memory, it killed every worker with SIGBUS, as did a full disk."""
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


def test_workers_go_on_without_room_for_the_file(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "upstream"
    path.symlink_to("/dev/full")
    worker = Workers.sharing(path, clock)
    worker.hold(12)
    worker.ask(listens=True)
    assert (worker.others_had(), worker.surplus(0)[0]) == (None, 0)
