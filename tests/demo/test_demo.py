"""`smtpproxy demo`, run as users run it."""

import os
import re
import resource
import signal
import smtplib
import socket
import time
from pathlib import Path

import pytest

from smtpproxy.demo.relay import free_port
from tests.kit.messages import marketing
from tests.kit.ports import listens, wait_for
from tests.kit.processes import Running, descendants, run, wait_exit
from tests.kit.relay import COMMAND, REPOSITORY

BASES = (
    "consent",
    "existing_customer",
    "charity",
    "professional",
    "generic_address",
    "transactional",
)
REASONS = (
    "suppressed_unsubscribe",
    "suppressed_complaint",
    "consent_withdrawn",
    "consent_preticked",
    "consent_expired",
    "no_record",
    "source_forbidden",
    "customer_stale",
    "unsubscribe_missing",
    "one_click_missing",
    "sender_not_permitted",
)


@pytest.fixture
def temporary(tmp_path: Path) -> dict[str, str]:
    """A private temporary directory, to see what is left in it, and a useless proxy."""
    (tmp_path / "tmp").mkdir()
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    return {"TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "160"} | proxy


def load() -> float:
    """The load per core over the last minute, at least 1."""
    return max(os.getloadavg()[0] / len(os.sched_getaffinity(0)), 1.0)


def cpu_seconds() -> float:
    """The CPU time of the commands run so far, including their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_demo_shows_every_basis_and_refusal_and_leaves_nothing(
    tmp_path: Path, temporary: dict[str, str]
) -> None:
    began, used, busy = time.monotonic(), cpu_seconds(), load()
    done = run(*COMMAND, "demo", cwd=REPOSITORY, env=temporary, timeout=170)
    seconds, used, busy = time.monotonic() - began, cpu_seconds() - used, max(busy, load())
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    for basis in BASES:
        assert re.search(rf" allow +{basis} +250 2\.0\.0 kept as \d", done.stdout), basis
    for reason in REASONS:
        assert re.search(rf" refuse +{reason} +550 5\.7\.\d .*{reason}", done.stdout), reason
    assert "holds 6 messages: exactly the 6 that were answered 250." in done.stdout
    assert re.search(r" 3\. The next newsletter to her: 550 .* suppressed_unsubscribe", done.stdout)
    assert re.search(r"says, in .*\n  jeanne@people.example  refused\n", done.stdout)
    assert "the person unsubscribed on" in done.stdout
    assert "All other rules still apply.\n\nWhat Prometheus sees" in done.stdout, (
        "without the single steps"
    )
    assert 'smtpproxy_allowed_total{basis="charity",stream="appeals"}' in done.stdout
    port = re.search(r"swaks --server 127.0.0.1:(\d+)", done.stdout)
    assert port is not None
    assert not listens(int(port[1]))
    assert list((tmp_path / "tmp").iterdir()) == []
    # A promise to users: CPU time in any case; elapsed time on an idle machine, so three times
    # that beside other tests, and more on a busier machine.
    assert used < 20
    assert seconds < 60 * busy


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_kept_accepts_mail_until_told_to_end(
    tmp_path: Path, temporary: dict[str, str], number: signal.Signals
) -> None:
    demo = Running(
        [*COMMAND, "demo", "--keep"], output=tmp_path / "out", cwd=REPOSITORY, env=temporary
    )
    try:
        wait_for(
            lambda: "Ctrl-C ends the demo" in demo.output or not demo.alive, "the demo to stay"
        )
        port = re.search(r"relay keeps running at 127.0.0.1:(\d+)", demo.output)
        assert port is not None, demo.output
        with smtplib.SMTP("127.0.0.1", int(port[1])) as client:
            client.sendmail("news@shop.example", "karim@people.example", marketing())
        wait_for(lambda: "got a message to karim@people.example" in demo.output, "the message")
        (line,) = re.findall(r"^ *(python3 -c .*)$", demo.output, re.MULTILINE)
        assert run("sh", "-c", line).returncode == 0
        wait_for(
            lambda: "got a message to paul@people.example" in demo.output, "the line's message"
        )
        children = descendants(demo.pid)
        assert children
        os.kill(demo.pid, number)
        assert demo.wait(30) == 0
        for pid in children:
            wait_exit(pid)
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        if demo.alive:  # it ends its relay, which a kill would leave running
            demo.terminate()


def test_a_demo_that_cannot_run_reports_it_in_one_line(temporary: dict[str, str]) -> None:
    """As on a full disk, since here no file may grow."""
    done = run(
        "sh", "-c", "ulimit -f 0; exec \"$@\"", "sh", *COMMAND, "demo",
        cwd=REPOSITORY, env=temporary,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .+\n", done.stderr), done.stderr


def test_a_busy_port_is_skipped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found, lock = free_port(port)
        assert found > port
        lock.close()


def test_two_concurrent_demos_get_different_ports() -> None:
    """Even if the first one's relay does not listen yet."""
    first, lock = free_port(34_525)
    with lock:
        second, other = free_port(34_525)
        other.close()
        assert second > first
