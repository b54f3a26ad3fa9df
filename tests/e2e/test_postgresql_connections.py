"""Connections of a relay to PostgreSQL: no process ever has more than `connections`."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.postgres import PostgresCluster
from tests.kit.processes import descendants
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")
CONNECTIONS = 4
WORKERS = 2
ESTABLISHED = "01"


@pytest.fixture
def relays(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Relays]:
    server = PostgresCluster(port=free_port())
    relays = Relays(tmp_path, upstream.address, server)
    yield relays
    relays.kill()
    server.stop()


def held(pid: int, port: int) -> dict[int, int]:
    """Connections of each descendant of a process to a local port."""
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_, inode = line.split()[:10]
        if int(remote.partition(":")[2], 16) == port and state == ESTABLISHED:
            sockets.add(f"socket:[{inode}]")
    found: Counter[int] = Counter()
    for each in [pid, *descendants(pid)]:
        with suppress(OSError):
            for name in Path(f"/proc/{each}/fd").iterdir():
                with suppress(OSError):
                    found[each] += str(name.readlink()) in sockets
    return dict(found)


def test_no_process_exceeds_its_limit_under_load(relays: Relays) -> None:
    port = relays.server.port
    url = f"postgresql://smtpproxy@{LOOPBACK}:{port}/{relays.name}"
    config = {"server": {"workers": WORKERS}}
    relay = relays.start("one", config, url=url, connections=CONNECTIONS, timeout="5s")
    counted = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{relays.name}'"
    people = [address("consent"), address("unsubscribed")] * 50
    most: Counter[int] = Counter()
    total = rounds = 0
    with ThreadPoolExecutor(40) as clients:
        while sum(n > 1 for n in most.values()) < WORKERS:  # until both have been busy
            answers = clients.map(lambda person: answer(relay, person), people)
            sending = clients.submit(list, answers)
            while not sending.done():
                for pid, n in held(relay.pid, port).items():
                    most[pid] = max(most[pid], n)
                total = max(total, int(relays.sql(counted)) - 1)  # the query itself
                time.sleep(0.02)
            assert sorted(Counter(sending.result()).items()) == [(250, 50), (550, 50)]
            rounds += 1
            assert rounds < 10, f"only one worker was busy: {most}"
    assert max(most.values()) <= CONNECTIONS
    assert total <= CONNECTIONS * (WORKERS + 5) + 2
