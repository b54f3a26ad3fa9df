"""Reloads, upgrades and restarts refuse no client and lose no mail."""

import contextlib
import json
import os
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main, status
from tests.kit.dkim import KeyFile
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.processes import Running, descendants, name, run
from tests.kit.relay import COMMAND, RelayProcess, listener
from tests.kit.reports import letter
from tests.kit.upstream import FakeUpstream

SENDER, PERSON = "news@shop.example", "somebody@people.example"
OBSERVED = {"policy": {"mode": "observe"}}
"""These relays know nobody, so mail passes only in observe mode."""


@pytest.fixture
def mta() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def relay(tmp_path: Path, mta: FakeUpstream) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}") as running:
        yield running


def configure(relay: RelayProcess, change: Callable[[dict[str, Any]], object]) -> None:
    change(relay.config)
    relay.write_config()


def observe(config: dict[str, Any]) -> None:
    config["policy"]["mode"] = "observe"


def enforce(config: dict[str, Any]) -> None:
    config["policy"]["mode"] = "enforce"


def test_the_mode_in_the_file_applies_from_the_reload_on(relay: RelayProcess) -> None:
    """No client that connects after the reload gets an old worker."""
    assert relay.send(marketing(), PERSON)[0] == 550
    for mode, change, code in (("observe", observe, 250), ("enforce", enforce, 550)) * 3:
        configure(relay, change)
        exit_code, told, _ = relay.command("reload", "--json")
        assert (exit_code, json.loads(told)["mode"]) == (0, mode)
        assert relay.send(marketing(), PERSON)[0] == code


def test_a_reload_is_done_once_the_old_workers_no_longer_accept(relay: RelayProcess) -> None:
    (former,) = relay.workers
    heard = threading.Event()

    def hear() -> None:
        heard.set()
        with contextlib.suppress(ProcessLookupError):  # it may be gone already
            os.kill(former, signal.SIGCONT)

    later = threading.Timer(1.2, hear)  # before the relay stops waiting
    os.kill(former, signal.SIGSTOP)
    later.start()
    try:
        assert relay.command("reload")[0] == 0
        assert heard.is_set()
    finally:
        later.cancel()
        hear()


def test_a_message_is_finished_under_the_settings_it_began_with(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    configure(relay, observe)
    relay.command("reload")
    with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
        client.ehlo("app.example")
        client.mail(SENDER)
        assert client.rcpt(PERSON)[0] == 250
        configure(relay, lambda config: config["policy"].update(mode="enforce"))
        code, _, _ = relay.command("reload")
        assert code == 0
        assert client.data(marketing())[0] == 250
        assert client.mail(SENDER)[0] == 421  # the client is asked to reconnect
    wait_for(lambda: status_of(relay)["draining"] == 0, "the worker of before to end")
    assert status_of(relay)["messages"] == {"offers": {"allow": 1}}, "its last events are counted"
    assert relay.send(marketing(), PERSON)[0] == 550


def status_of(relay: RelayProcess) -> Any:
    return json.loads(relay.command("status", "--json")[1])


def test_many_reload_requests_are_combined(relay: RelayProcess) -> None:
    for _ in range(50):
        os.kill(relay.pid, signal.SIGHUP)
        time.sleep(0.002)
    configure(relay, observe)
    relay.must("reload")
    assert relay.send(marketing(), PERSON)[0] == 250, "the file was read after the request"
    assert sum(line["event"] == "ready" for line in relay.log) < 25, "out of 52 requests"


def test_listeners_come_and_go(relay: RelayProcess) -> None:
    first, second = relay.port(), listener("second", "receipts", default="receipts")
    configure(relay, lambda config: config["listener"].append(second))
    assert relay.command("reload")[0] == 0
    for port in (first, relay.port("second")):
        assert smtplib.SMTP(LOOPBACK, port, timeout=30).quit()[0] == 221
    configure(relay, lambda config: config["listener"].pop(0))
    assert relay.command("reload")[0] == 0
    wait_for(lambda: not connects(first), "the listener to be gone")
    assert smtplib.SMTP(LOOPBACK, relay.port(), timeout=30).quit()[0] == 221


def connects(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def taken(config: dict[str, Any], port: int) -> None:
    config["listener"].append(listener("second", "receipts") | {"address": f"{LOOPBACK}:{port}"})


def test_a_reload_that_fails_is_reported_and_changes_nothing(relay: RelayProcess) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        configure(relay, lambda config: (observe(config), taken(config, other.getsockname()[1])))
        code, shown, _ = relay.command("reload")
    assert code == 1
    assert '"second" cannot listen on' in shown
    assert relay.send(marketing(), PERSON)[0] == 550  # the mode is unchanged


def test_a_file_with_a_fault_changes_nothing(relay: RelayProcess) -> None:
    before = relay.workers
    relay.config_path.write_text("[server]\nhostname = 5\n")
    os.kill(relay.pid, signal.SIGHUP)
    wait_for(lambda: any(line["event"] == "not reloaded" for line in relay.log), "the fault")
    (line,) = [line for line in relay.log if line["event"] == "not reloaded"]
    assert any("server.hostname" in fault for fault in line["faults"])
    assert relay.workers == before
    relay.write_config()
    assert relay.send(marketing(), PERSON)[0] == 550


def test_the_state_directory_cannot_change_in_a_reload(relay: RelayProcess, tmp_path: Path) -> None:
    old = relay.config_path.read_text()
    configure(relay, lambda config: config["server"].update(state_dir=str(tmp_path / "other")))
    os.kill(relay.pid, signal.SIGHUP)
    wait_for(lambda: any(line["event"] == "not reloaded" for line in relay.log), "the fault")
    (line,) = [line for line in relay.log if line["event"] == "not reloaded"]
    assert line["faults"][0].startswith("server.state_dir: ")
    relay.config_path.write_text(old)


class Load:
    """Clients that keep sending messages, each over a new connection."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.replies: Counter[object] = Counter()
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                with smtplib.SMTP(LOOPBACK, self._port, timeout=30) as client:
                    client.sendmail(SENDER, [PERSON], marketing())
                self.replies[250] += 1
            except (OSError, smtplib.SMTPException) as error:
                self.replies[f"{type(error).__name__}: {error}"] += 1
            time.sleep(0.02)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)


def test_reloads_and_a_new_process_refuse_no_client_and_lose_nothing(
    tmp_path: Path, mta: FakeUpstream
) -> None:
    relay = RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", OBSERVED)
    with relay, Load(relay.port()) as load:
        for _ in range(2):
            assert relay.command("reload")[0] == 0
        successor = Running(
            [*COMMAND, "serve", "--take-over", "--config", str(relay.config_path)],
            output=tmp_path / "successor.log",
        )
        wait_for(lambda: not relay.alive, "the relay before to end", timeout=60)
        sent = load.replies[250]
        wait_for(lambda: load.replies[250] > sent + 5, "mail by the new process", timeout=30)
    successor.terminate()
    assert set(load.replies) == {250}
    assert len(mta.messages) == load.replies[250]


def test_only_one_process_handles_bounces(tmp_path: Path, mta: FakeUpstream) -> None:
    """Even while old workers drain: two would act on a bounce twice."""
    mailbox = f"{LOOPBACK}:{free_port()}"
    more = {"feedback": {"domain": "bounces.shop.example", "address": mailbox}}

    def alone(process: int) -> list[int]:
        return [pid for pid in descendants(process) if name(pid) == "feedback"]

    with RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", more) as relay:
        before = alone(relay.pid)
        relay.must("reload")
        wait_for(lambda: not set(alone(relay.pid)) & set(before), "the one before to end")
        wait_for(lambda: len(alone(relay.pid)) == 1, "the next")
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
            client.ehlo()
            assert client.mail(SENDER)[0] == 250
            successor = Running(
                [*COMMAND, "serve", "--take-over", "--config", str(relay.config_path)],
                output=tmp_path / "successor.log",
            )
            wait_for(lambda: len(alone(successor.pid)) == 1, "that of the next relay", timeout=60)
            assert relay.alive
            assert alone(relay.pid) == []
        wait_for(lambda: not relay.alive, "the relay before to end", timeout=60)
    successor.terminate()


@contextmanager
def activated(relay: RelayProcess, listening: socket.socket) -> Iterator[Running]:
    """The relay as started by systemd with a socket unit."""
    wait_then = f'LISTEN_PID=$$ LISTEN_FDS=1 exec {sys.executable} -m smtpproxy serve --config "$1"'
    number = listening.fileno()
    command = f"exec 3<&{number}; {wait_then}"
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", str(relay.config_path)],
        pass_fds=(number,),
        stdout=(relay.root / "relay.log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process  # type: ignore[misc]
    finally:
        process.terminate()
        process.wait(30)


def test_connections_wait_in_the_units_socket_while_the_relay_restarts(
    tmp_path: Path, mta: FakeUpstream
) -> None:
    relay = RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", OBSERVED)
    with socket.create_server((LOOPBACK, relay.port())) as listening:
        for _ in range(2):
            client = smtplib.SMTP(timeout=60)
            waiting = threading.Thread(target=client.connect, args=(LOOPBACK, relay.port()))
            waiting.start()  # before the relay starts
            with activated(relay, listening):
                waiting.join(60)
                assert client.sendmail(SENDER, [PERSON], marketing()) == {}
                client.quit()
    assert len(mta.messages) == 2


def test_a_socket_of_the_unit_without_a_listener_is_reported(
    tmp_path: Path, mta: FakeUpstream
) -> None:
    relay = RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}")
    with socket.create_server((LOOPBACK, free_port())) as listening:
        with activated(relay, listening) as process:
            assert process.wait(30) == 1
        assert "which has no listener" in relay.output


def test_status_reports_the_state_of_the_relay(relay: RelayProcess) -> None:
    relay.send(marketing(), PERSON)
    relay.send(marketing(stream="secret"), PERSON)
    code, told, _ = relay.command("status", "--json")
    found = json.loads(told)
    assert code == 0
    assert found["messages"]["offers"] == {"refuse": 2}
    assert found["refusals"] == {"no_record": 1, "stream_not_permitted": 1}
    assert (found["workers"], found["alive"], found["mode"]) == (1, 1, "enforce")
    assert found["store_copy"] == []
    assert found["ready"] is None  # without [web]
    with sqlite3.connect(relay.root / "state" / "smtpproxy.db") as store:
        store.execute("CREATE TRIGGER copying_1 AFTER INSERT ON contact BEGIN SELECT 1; END")
    assert "offers" in (text := relay.command("status")[1])
    assert "a copy was started but not finished" in text
    watching = [*COMMAND, "status", "--watch", "--json", "--config", str(relay.config_path)]
    with subprocess.Popen(watching, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = json.loads(process.stdout.readline())
        process.terminate()
    assert (seen["alive"], seen["rates"]["refuse"]) == (1, 0)


def test_status_reports_the_uptime_though_the_clock_was_set_back(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = status.ask

    def later(*arguments: Any, **more: Any) -> Any:
        response, files = asked(*arguments, **more)
        response.told["started_at"] += 86_400.0
        return response, files

    monkeypatch.setattr(status, "ask", later)
    assert 0 <= json.loads(relay.must("status", "--json"))["uptime_seconds"] < 3_600


def test_status_works_although_the_file_has_faults(relay: RelayProcess) -> None:
    """A health check must not end a working relay that could not start again."""
    assert "the file was changed" not in relay.command("status")[1]
    configure(relay, observe)
    assert "the file was changed since: smtpproxy reload" in relay.command("status")[1]
    relay.config_path.write_text(relay.config_path.read_text() + "\n[policy.nonsense]\n")
    code, told, _ = relay.command("status")
    assert code == 0
    assert "the file has 1 fault, and the relay goes on without it: smtpproxy check" in told
    assert "1 of 1 alive" in told
    found = json.loads(relay.command("status", "--json")[1])
    assert (found["ready"], found["keys"], found["alive"]) == (None, None, 1)
    assert "nonsense" in found["faults"][0]
    assert relay.terminate() == 0
    code, _, told = relay.command("status")
    assert code == 2
    assert "nonsense" in told
    assert "no relay runs" in told


@pytest.mark.parametrize("text", [None, "no TOML"])
def test_status_shows_no_other_relay_when_the_file_names_none(
    tmp_path: Path, text: str | None
) -> None:
    """The default `/var/lib/smtpproxy` is only for the unit and for readable files."""
    path = tmp_path / "typo.toml"
    if text is not None:
        path.write_text(text)
    done = run(*COMMAND, "status", "--config", str(path))
    assert done.returncode == 2
    assert "typo.toml: " in done.stderr
    assert "no relay runs" not in done.stderr


def test_reload_reports_that_the_relay_read_another_file(relay: RelayProcess) -> None:
    other = relay.config_path.with_name("other.toml")
    other.write_text(relay.config_path.read_text())
    assert CliRunner().invoke(main, ["reload", "--config", str(other)]).exit_code == 0
    configure(relay, observe)
    told = CliRunner().invoke(main, ["reload", "--config", str(other)])
    assert told.exit_code == 1
    assert "has read its own file, which differs" in told.stderr


def test_only_the_relays_user_can_control_it_and_no_socket_is_left(
    relay: RelayProcess,
) -> None:
    control = relay.root / "state" / "control"
    assert control.stat().st_mode & 0o777 == 0o600
    assert relay.terminate() == 0
    assert not control.exists()
    for command in ("status", "reload"):
        code, _, told = relay.command(command)
        assert code == 1
        assert "no relay runs" in told


def test_commands_report_a_missing_state_directory(tmp_path: Path) -> None:
    relay = RelayProcess(tmp_path, f"{LOOPBACK}:1")
    (tmp_path / "state").rmdir()
    for command in ("status", "reload"):
        code, _, told = relay.command(command)
        assert code == 1
        assert "no relay runs" in told


def test_a_deep_state_directory_works(tmp_path: Path, mta: FakeUpstream) -> None:
    """The path of a socket has at most 107 octets."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with RelayProcess(deep, f"{LOOPBACK}:{mta.port}") as relay:
        assert relay.command("reload")[0] == 0


def test_status_counts_whoever_is_refused_at_rcpt(tmp_path: Path, mta: FakeUpstream) -> None:
    config = {"listener": [listener("apps", "offers", default="offers")]}
    with RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", config) as relay:
        assert relay.send(marketing(), PERSON)[0] == 550
        rows = [line.split() for line in relay.command("status")[1].splitlines()]
        assert ["offers", "enforce", "0", "0", "0", "1"] in rows


def test_status_omits_idle_streams_if_there_are_many(tmp_path: Path, mta: FakeUpstream) -> None:
    streams = [{"name": f"s{n}", "class": "transactional"} for n in range(60)]
    with RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", {"stream": streams}) as relay:
        relay.send(message(stream="s41"), PERSON)
        told = relay.command("status")[1]
        assert [line.split()[0] for line in told.splitlines() if "enforce" in line][1:] == ["s41"]
        assert "60 more streams had no mail" in told  # s0 to s59 without s41, and `default`


def test_status_names_the_part_that_stops_mail(tmp_path: Path) -> None:
    nobody = f"{LOOPBACK}:{free_port()}"
    with RelayProcess(tmp_path, nobody, {"web": {"address": f"{LOOPBACK}:{free_port()}"}}) as relay:
        code, told, _ = relay.command("status", "--json")
        works = dict.fromkeys(("listeners", "store", "audit"), "ok")
        assert json.loads(told)["ready"] == {**works, "upstream": "failing"}
        assert "no: upstream failing" in relay.command("status")[1]
        assert code == 0  # all workers are running


def test_status_reports_the_mailbox_and_the_keys(tmp_path: Path, mta: FakeUpstream) -> None:
    key = KeyFile(tmp_path, "s1", "shop.example")
    mailbox = f"{LOOPBACK}:{free_port()}"
    more = {
        "feedback": {"domain": "bounces.shop.example", "address": mailbox},
        "dkim": [key.table()],
    }
    with RelayProcess(tmp_path, f"{LOOPBACK}:{mta.port}", more) as relay:

        def feedback() -> Any:
            return json.loads(relay.command("status", "--json")[1])["feedback"]

        assert feedback() == {"waiting": 0, "kept": 0, "to_hand_on": 0, "elsewhere": 0, "heard": {}}
        with smtplib.LMTP(LOOPBACK, int(mailbox.rpartition(":")[2])) as client:
            sent = letter("?", to="abuse@bounces.shop.example", sender="x@people.example")
            client.sendmail("x@people.example", ["abuse@bounces.shop.example"], sent)
        wait_for(lambda: feedback()["kept"] == 1, "the report to be kept")
        assert feedback()["waiting"] == 0
        keys = json.loads(relay.command("status", "--json")[1])["keys"]
        written = datetime.fromtimestamp(key.path.stat().st_mtime, UTC)
        day = f"{written + timedelta(days=365):%Y-%m-%d}"
        assert keys["DKIM s1._domainkey.shop.example"].startswith(day)
        text = relay.command("status")[1]
        assert "0 to be read, 1 kept for a person, 0 to be handed on" in text
        assert f"DKIM s1._domainkey.shop.example {day}" in text
