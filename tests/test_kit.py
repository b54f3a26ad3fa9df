"""The kit that other tests rely on: it must see what happened and end what it started."""

import os
import signal
import smtplib
import socket
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit import messages, parts
from tests.kit.dialog import DIALOGS, DialogError, run_dialog
from tests.kit.load import SmtpSink, smtp_source
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import Running, kill_all, run, running, wait_exit
from tests.kit.relay import COMMAND, REPOSITORY, RelayProcess, parse_metrics
from tests.kit.store import SUPPRESSED, address, ndjson, people, suppressions_csv
from tests.kit.toml import to_toml
from tests.kit.upstream import At, Close, Drip, FakeUpstream, Hold, Reply

DIALOG = DIALOGS / "fake_upstream.dialog"
LATER = At("rcpt", Reply("450 4.2.0 later"), nth=2)


def send(port: int, message: bytes, to: str = "jeanne@people.example") -> None:
    with smtplib.SMTP(LOOPBACK, port) as client:
        client.sendmail("news@shop.example", [to], message)


@needs("postfix", "swaks")
def test_postfix_delivers_mail_sent_by_swaks(postfix: PostfixInstance) -> None:
    done = run(
        program("swaks"), "--server", postfix.address, "--from", "a@shop.example",
        "--to", "Jeanne+x@people.example", "--data", "Subject: dots\n\n.one\n..two\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (mail,) = postfix.delivered(1)
    assert mail.recipient == "Jeanne+x@people.example"
    assert mail.return_path == "a@shop.example"
    assert mail.message.startswith(b"Subject: dots\r\n\r\n.one\r\n..two\r\n")
    postfix.wait_empty()


@needs("postfix")
def test_postfix_shows_the_bytes_it_was_given(postfix: PostfixInstance) -> None:
    message = messages.marketing(body="caf\xe9 \u20ac\r\n\r\n.dot\r\n   \r\n")
    send(postfix.port, message)
    assert [mail.message for mail in postfix.delivered(1)] == [message]


@needs("postfix")
def test_postfix_as_client_keeps_what_its_relayhost_defers(upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Reply("451 4.3.0 not now"), nth=1))
    with PostfixInstance(relayhost=upstream.address) as client:
        client.submit(messages.message(), "a@shop.example", ["jeanne@people.example"])
        client.wait_empty()
        upstream.wait_messages(1)
        assert "status=deferred" in client.log
        assert upstream.messages[0].recipients == ("jeanne@people.example",)


@needs("postfix")
def test_postfix_restarts_with_its_mail(postfix: PostfixInstance) -> None:
    send(postfix.port, messages.message())
    postfix.delivered(1)
    pid = postfix.pid
    postfix.restart()
    assert postfix.pid != pid
    send(postfix.port, messages.message())
    assert len(postfix.delivered(2)) == 2
    root = postfix.root
    postfix.remove()
    assert not root.exists()
    assert not listens(postfix.port)


@needs("smtp-sink", "smtp-source")
def test_smtp_sink_counts_and_dumps_mail_from_smtp_source() -> None:
    with SmtpSink(dump=True) as sink:
        sent = smtp_source(sink.address, 20, sessions=4, length=400, numbered=True, reuse=True)
        assert (sent.exit_code, sent.accepted, sink.messages) == (0, 20, 20)
        send(sink.port, messages.message(message_id="<here@shop.example>"), "last@people.example")
        names = sorted(dump.recipients[0] for dump in sink.dumped())
        assert len(names) == 21
        assert {"1jeanne@people.example", "jeanne1@people.example"} & set(names)
        (last,) = [d for d in sink.dumped() if d.recipients == ("last@people.example",)]
        assert last.message == messages.message(message_id="<here@shop.example>")


@needs("smtp-sink", "smtp-source")
def test_smtp_source_reports_a_refusal() -> None:
    with SmtpSink("-f", "RCPT") as sink:
        sent = smtp_source(sink.address, 3)
        assert sent.exit_code != 0
        assert sent.accepted == sink.messages == 0
        assert "500 5.3.0" in sent.output


@pytest.mark.parametrize("piece", [None, 1, 7])
def test_a_dialog_can_be_sent_whole_or_in_pieces(piece: int | None) -> None:
    with FakeUpstream(LATER) as server:
        run_dialog(DIALOG, server.port, piece=piece, variables={"sender": "a@shop.example"})
        (mail,) = server.messages
        assert mail.sender == "a@shop.example"
        assert mail.recipients == ("one@people.example",)
        assert mail.parameters == ("SIZE=40",)
        assert mail.data == b"Subject: dots\r\n\r\n.one\r\ncaf\xe9\r\n"


def test_a_dialog_that_differs_names_the_line(upstream: FakeUpstream) -> None:
    with pytest.raises(DialogError, match=r"fake_upstream.dialog:13: '250 2.1.5 .*' instead of"):
        run_dialog(DIALOG, upstream.port, variables={"sender": ""})


def test_the_fake_upstream_behaves_as_told() -> None:
    with FakeUpstream(
        At("mail", Drip(0.001)),
        At("data", Reply("451 4.3.0 no\n451 4.3.0 still no"), nth=1),
        At("end", Close(), nth=1),
        At("end", Close(reset=True), nth=2),
    ) as server:
        with pytest.raises(smtplib.SMTPDataError, match="still no"):
            send(server.port, b"x\r\n")
        for _ in range(2):
            with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
                send(server.port, b"x\r\n")
        assert server.messages == []
        send(server.port, b"x\r\n")
        assert len(server.messages) == 1
        assert server.connections == 4


def test_the_fake_upstream_holds_until_released() -> None:
    with (
        FakeUpstream(At("connect", Hold())) as server,
        socket.create_connection((LOOPBACK, server.port), timeout=5) as client,
    ):
        server.wait_held()
        server.release()
        assert client.recv(100).startswith(b"220")
        server.drop_connections()
        assert client.recv(100) == b""


def test_ports_are_not_given_twice() -> None:
    assert len({free_port() for _ in range(200)}) == 200


def test_the_watchdog_ends_the_whole_group(tmp_path: Path) -> None:
    before = running()
    process = Running(["sh", "-c", "sleep 99 & echo $!; wait"], output=tmp_path / "out")
    while not process.output.strip():
        assert process.alive
    kill_all(running() - before)
    assert not process.alive
    wait_exit(int(process.output))


def test_programs_die_with_the_test_process(tmp_path: Path) -> None:
    """Even when pytest itself is killed."""
    script = (
        "import pathlib, sys, time\n"
        "from tests.kit.processes import Running\n"
        f"path = pathlib.Path({str(tmp_path / 'output')!r})\n"
        "child = Running(['sh', '-c', 'echo up; exec sleep 99'], output=path)\n"
        "while not child.output: time.sleep(0.01)\n"
        "print(child.pid, flush=True); time.sleep(99)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    wait_exit(child)


@pytest.mark.parametrize("arguments", [("--version",), ("nonsense",)])
def test_a_forked_command_ends_like_a_started_one(arguments: tuple[str, ...]) -> None:
    started = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    forked = run(*COMMAND, *arguments)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_a_forked_relay_can_be_killed(tmp_path: Path, upstream: FakeUpstream) -> None:
    with RelayProcess(tmp_path, upstream.address) as relay:
        pid, workers = relay.pid, relay.workers
        assert workers
        os.kill(pid, signal.SIGKILL)
        wait_exit(pid)
        wait_for(lambda: not relay.alive, "who forked it to say so")
        for each in workers:
            wait_exit(each)


def test_written_toml_is_read_back_unchanged() -> None:
    table = {"a": 1, "b": True, "c": 'x"\\é', "t": {"l": ["x", "y"], "u": {"f": 0.5}}, "e": []}
    assert tomllib.loads(to_toml({**table, "s": [{"n": 1}, {"n": {"deep": "v"}}]})) == {
        **table,
        "s": [{"n": 1}, {"n": {"deep": "v"}}],
    }


def test_metrics_are_read_with_labels_in_name_order() -> None:
    text = '# TYPE a counter\na_total{z="1",b="x"} 4\n# TYPE up gauge\nup 1\n'
    assert parse_metrics(text) == {'a_total{b="x",z="1"}': 4.0, "up": 1.0}


def test_a_missing_part_is_reported_once_with_its_package() -> None:
    reasons = ["Skipped: missing part: swaks (Debian package swaks)"] * 2 + ["Skipped: other"]
    assert parts.summary(reasons) == ["swaks (Debian package swaks) is missing: 2 tests skipped"]


def test_a_missing_part_skips_and_in_ci_fails(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import os\nfrom tests.kit.parts import PARTS, Part, needs\n"
        "PARTS['swaks'] = Part('swaks', ('no-such-program',))\n"
        "@needs('swaks')\ndef test_here(): raise AssertionError('ran')\n"
        "def test_from_now_on(): os.environ['CI'] = 'true'\n"
        "@needs('swaks')\ndef test_in_ci(): raise AssertionError('ran')\n"
        "PARTS['curl'] = Part('curl', ('no-such-program',), library='/no/such', until=1)\n"
        "@needs('curl')\ndef test_a_part_of_an_old_debian(): raise AssertionError('ran')\n"
    )
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    done = run(
        sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-c", "pyproject.toml",
        "--rootdir", str(tmp_path), str(test), cwd=Path(__file__).parents[1], env={"CI": ""},
    )  # fmt: skip
    assert "1 passed, 2 skipped, 1 error" in done.stdout, done.stdout
    assert "ERROR " in done.stdout
    assert "::test_in_ci" in done.stdout
    assert "swaks (Debian package swaks)" in done.stdout


def test_the_relay_judges_the_invented_people_as_documented(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Through the import commands, `smtpproxy serve` and its metrics, as the kit does it."""
    now = datetime.now(UTC)
    relay = RelayProcess(tmp_path, upstream.address, {"web": {}})
    relay.fill(ndjson(now), suppressions_csv(now))
    with relay:
        bases = []
        for person in people(now).values():
            to = person.contact.address
            domain = "charity.example" if person.stream == "appeals" else "shop.example"
            message = messages.marketing(sender=f"news@{domain}", to=to, stream=person.stream)
            code, text = relay.send(message, to, sender=f"news@{domain}")
            if code == 250:
                bases.append(person.outcome)
                allowed = relay.metric(
                    "smtpproxy_allowed_total", stream=person.stream, basis=person.outcome
                )
                assert allowed == bases.count(person.outcome), person
            else:
                assert f"<{to}> refused: {person.outcome} (stream" in text, person
        for name, (_, origin) in SUPPRESSED.items():
            _, text = relay.send(messages.marketing(to=address(name)), address(name))
            assert f"refused: suppressed_{origin} " in text
        assert sorted(bases) == [
            "charity", "consent", "existing_customer", "generic_address", "professional",
        ]  # fmt: skip
        assert len(upstream.messages) == len(bases)
        pids = relay.pids
        assert len(pids) > 1
        assert relay.terminate() == 0
        for pid in pids[1:]:
            wait_exit(pid)


def test_leftovers_of_a_killed_run_are_removed_by_the_next(tmp_path: Path) -> None:
    code = "from tests.kit.folders import server_folder; print(server_folder('mta'), flush=True)"

    def folder(then: str) -> tuple[Path, subprocess.Popen[str]]:
        begun = subprocess.Popen(
            [sys.executable, "-c", f"{code}; {then}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=REPOSITORY,
        )  # fmt: skip
        assert begun.stdout is not None
        return Path(begun.stdout.readline().strip()), begun

    left, killed = folder("input()")
    (left / "data").write_text("much")
    living, runs = folder("input()")
    assert left.exists(), "its owner is alive"
    killed.kill()
    killed.communicate()
    another, ended = folder("pass")
    ended.communicate()
    assert sorted(tmp_path.iterdir()) == sorted([living, another])
    runs.communicate("\n")
