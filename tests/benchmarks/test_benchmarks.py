"""The arithmetic of the benchmark; no timing is asserted."""

import smtplib
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import data, latency, postgres
from benchmarks.generator import Way, generate, generators
from benchmarks.latency import Latency
from benchmarks.procfs import PeakMemory, cpu_seconds, pss_bytes
from benchmarks.results import Results, print_results
from benchmarks.subjects import HOP
from benchmarks.throughput import LOADS, Cell
from tests.kit.messages import marketing
from tests.kit.ports import free_port, wait_for
from tests.kit.processes import Running
from tests.kit.relay import REPOSITORY, greets
from tests.kit.upstream import At, Delay, FakeUpstream, Reply


@pytest.mark.parametrize("count", [1, 2, 7, 1_000, 20_000])
def test_people_are_numbered_once_each_in_shuffled_order(count: int) -> None:
    numbers = list(data._shuffled(count))
    assert sorted(numbers) == list(range(1, count + 1))
    if count > 10:
        neighbours = sum(abs(a - b) == 1 for a, b in pairwise(numbers))
        assert neighbours < count / 10


@pytest.mark.parametrize(("count", "people"), [(40, 5_000), (500, 10_000), (9, 10), (7, 7)])
def test_each_run_mails_other_people_on_record(count: int, people: int) -> None:
    seen: set[str] = set()
    runs = people // (count + 1) // 10 or 1
    for others in range(runs):
        to = data.recipient(count, people, others)
        names = {f"{number}{to}" for number in range(1, count + 1)}
        assert not names & seen
        seen |= names
    numbers = [int(name.partition("bench@")[0]) for name in seen]
    assert len(numbers) == runs * count
    assert 1 <= min(numbers) <= max(numbers) <= people


@pytest.mark.parametrize("size", [4_000, 100_000, 1_000_000])
def test_messages_have_the_requested_size(size: int) -> None:
    message = data.message(size)
    assert size - 80 < len(message) <= size
    assert message.endswith(b"\r\n")
    assert max(map(len, message.split(b"\r\n"))) < 998


def test_cpu_time_of_ended_children_counts() -> None:
    burn = "import time; e = time.process_time() + 0.3\nwhile time.process_time() < e: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as parent:
        wait_for(lambda: cpu_seconds([parent.pid]) >= 0.3, "the child's time to be seen")
        parent.communicate(b"\n")
    assert cpu_seconds([parent.pid]) == 0.0


def test_the_peak_includes_memory_freed_since() -> None:
    script = "x = b'x' * 80_000_000; input(); del x; input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        with PeakMemory(lambda: [process.pid], every=0.001) as memory:
            assert process.stdin is not None
            wait_for(lambda: memory.peak > 80_000_000, "memory to be taken")
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_for(lambda: pss_bytes([process.pid]) < 60_000_000, "memory to be given back")
        process.communicate(b"\n")
    assert memory.peak > 80_000_000


def test_latency_counts_from_when_a_message_was_due() -> None:
    """At 0.1 s per message a connection cannot do 20/s, so later messages wait too."""
    with FakeUpstream(At("mail", Delay(0.1))) as server:
        quiet = latency.generate(server.port, rate=100, seconds=1.0, people=10)
        assert quiet.failed == 0
        assert quiet.messages == pytest.approx(100, abs=51)
        assert 0.1 <= quiet.p50 <= quiet.p99 <= quiet.worst
        behind = latency.generate(server.port, rate=1_000, seconds=1.0, people=10)
        assert behind.p50 > 2 * 0.1
        recipients = {message.recipients for message in server.messages}
        assert recipients == {(f"{number}bench@people.example",) for number in range(1, 11)}


def test_the_generator_counts_answered_messages() -> None:
    with FakeUpstream() as server, generators() as pool:
        sent, rate = generate(pool, Way(server.port), 2, 0.2)
        assert len(server.messages) == sent > 0
        assert rate > 0


def test_the_generator_does_not_count_a_refusal_as_a_message() -> None:
    with (
        FakeUpstream(At("data", Reply("451 4.3.0 no"))) as server,
        generators() as pool,
        pytest.raises(RuntimeError, match="451"),
    ):
        generate(pool, Way(server.port), 1, 0.2)


def test_latency_counts_failed_messages() -> None:
    with FakeUpstream(At("data", Reply("451 4.3.0 no"))) as server:
        result = latency.generate(server.port, rate=100, seconds=0.5, people=10)
    assert result.messages == 0
    assert result.failed >= 50


def test_the_plain_peer_passes_mail_and_refusals_on(tmp_path: Path) -> None:
    port = free_port()
    with FakeUpstream(At("rcpt", Reply("550 5.1.1 nobody"), nth=2)) as server:
        peer = Running(
            [sys.executable, "-m", "benchmarks.peers.plain", str(port), str(server.port)],
            output=tmp_path / "out",
            cwd=REPOSITORY,
        )
        wait_for(lambda: greets(port), peer.output)
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("a@shop.example", "b@people.example", marketing())
            with pytest.raises(smtplib.SMTPDataError, match=r"4\.3\.0"):
                client.sendmail("a@shop.example", "c@people.example", marketing())
        assert [message.recipients for message in server.messages] == [("b@people.example",)]


def test_the_table_has_ratios_to_the_wire_and_failures() -> None:
    cells = {(name, load): Cell() for name in ("wire", HOP, "relay", "bad") for load in LOADS}
    for load in LOADS:
        cells["wire", load].rates = [900.0, 1_000.0, 5_000.0]
        cells["relay", load].rates = [450.0]
        cells[HOP, load].rates, cells[HOP, load].cpu_us = [800.0], [41.0]
        cells["relay", load].cpu_us = [123.0]
        cells["bad", load].error = "10 sent, but 9 allowed by consent"
    results = Results(1_000, "wire", ["wire", HOP, "relay", "bad"], cells, rate=1_000)
    results.latency = {
        "wire": Latency(0.001, 0.002, 0.01, 100, 0),
        "relay": Latency(0.0014, 0.0045, 0.01, 99, 1),
    }
    out = StringIO()
    print_results(results, Console(file=out, width=240))
    assert "450 (0.45)" in out.getvalue()
    assert "123 µs, 3.0 hops" in out.getvalue()
    assert "0.40 / 2.50 (1 failed)" in out.getvalue()
    assert "9 allowed by consent" in out.getvalue()
    assert results.as_json()["relays"]["relay"]["loads"]["4 KB reuse"]["ratio"] == 0.45
    assert results.as_json()["relays"]["relay"]["loads"]["4 KB reuse"]["hops"] == 3.0


def test_postgresql_is_compared_with_sqlite() -> None:
    def cell(rate: float, cpu: float, database: list[float]) -> Cell:
        return Cell([rate], [cpu], database)

    cells = {
        (name, load): cell(*figures)
        for load in postgres.LOADS
        for name, figures in {
            postgres.SQLITE: (1_000.0, 400.0, []),
            postgres.POSTGRESQL: (850.0, 480.0, [120.0]),
        }.items()
    }
    found = postgres.Compared(20, cells, copied_in=7.0)
    found.latency = dict.fromkeys(
        (postgres.SQLITE, postgres.POSTGRESQL), Latency(0.001, 0.004, 0.01, 500, 0)
    )
    out = StringIO()
    postgres.print_compared(found, Console(file=out, width=120))
    assert "850 (0.85)" in out.getvalue()
    assert "480 + 120 µs" in out.getvalue()
    assert "1.00 / 4.00" in out.getvalue()
    assert "7 s" in out.getvalue()
