"""The attacker tries to get an address, a link or a forged line into the log."""

import io
import json
import logging
import re
import socket
import sys
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.events import Failed, FilesRead, ProxyHeaderRead, TlsHandshake
from smtpproxy.settings import ServerSettings
from smtpproxy.sinks.log import Log, configure_logging, redacted
from tests.kit.messages import message
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.soak import times
from tests.kit.upstream import At, FakeUpstream, Raw, Reply, Step

LOCAL, DOMAIN = "jeanne.d'arc", "people.example"
FORMS = (
    "{l}@{d}",
    "<{l}@{d}>",
    "{l} @ {d}",
    "{l}\t@\r\n{d}",
    '"{l} of arc"@{d}',
    '"a \\"{l}\\" b"@{d}',
    "{l}@[192.0.2.1]",
    "<@relay.example,@b.example:{l}@{d}>",
    "bounce+{l}={d}@lists.example",
    "{l}%{d}@relay.example",
    "b.example!{l}@{d}",
    "{l}%40{d}",
    "rfc822;{l}+40{d}",
    "{l}=40{d}",
    "{l}\uff20{d}",
    "{l}&#64;{d}",
    "{l}&#x40;{d}",
    "{l}\\u0040{d}",
    "{l}\\x40{d}",
    "{l}[at]{d}",
    "{l} (at) {d}",
    "{l}(saint)@{d}",
    "{l}@{d}@{d}",
    "mailto:{l}@{d}?subject=unsubscribe",
    "to=<{l}@{d}>,relay=x",
    "{l}\x00@{d}",
    "{l}\u200b@{d}",
    "[{l}@{d}]",
    "'{l}@{d}'",
    "postgresql://{l}:hunter2@db.example/x",
    "=?utf-8?q?{l}=40{d}?=",
)
WORDS = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(params=["json", "text"])
def written(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """The standard error of a process of the relay."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    handlers, level = logging.root.handlers[:], logging.root.level
    configure_logging(
        ServerSettings("relay.example", Path("state"), log_format=request.param), process="worker-0"
    )
    yield stderr
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.root.handlers[:], logging.root.level = handlers, level
    structlog.reset_defaults()


def sink() -> Log:
    """A log output that drops no line."""
    ticks = iter(range(10**9))
    return Log(lambda: float(next(ticks)) * 10)


EVENTS: tuple[Callable[[str], Any], ...] = (
    lambda said: Failed("apps", "upstream", said),
    lambda said: Failed("apps", "internal", said),
    lambda said: Failed("apps", "protocol", said),
    lambda said: ProxyHeaderRead("apps", "192.0.2.1", "malformed", said),
    lambda said: TlsHandshake("apps", "192.0.2.1", "failed", said),
    lambda said: FilesRead("apps", "users", said),
)


def clean(output: str) -> None:
    """Contains neither the address nor the part of it that identifies the person."""
    for part in ("jeanne", DOMAIN, "hunter2"):
        assert part not in output.lower(), output


@pytest.mark.soak
@pytest.mark.parametrize("event", EVENTS)
def test_whatever_others_send_no_address_is_in_the_log(
    written: io.StringIO, event: Callable[[str], Any]
) -> None:
    log = sink()

    @settings(max_examples=times(25, 1_000))
    @given(WORDS, st.sampled_from(FORMS), WORDS)
    def whatever(before: str, form: str, after: str) -> None:
        written.seek(0)
        written.truncate()
        address = form.format(l=LOCAL, d=DOMAIN)
        log(event(f"{before} {address} {after}"))
        output = written.getvalue()
        assert output.count("\n") == 1
        clean(output)

    whatever()


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_an_address_is_in_the_log(form: str) -> None:
    address = form.format(l=LOCAL, d=DOMAIN)
    for text in (address, f"no {address} here", f"<{address}> ({address})"):
        clean(redacted(text))


def test_an_address_after_a_lookalike_is_redacted_too() -> None:
    assert DOMAIN not in redacted(f"@ jeanne&#64;{DOMAIN} said no")


def test_text_without_an_address_is_unchanged() -> None:
    for text in (
        "UpstreamLost: unsolicited: 421 4.7.0 mx.isp.example too many connections from 192.0.2.1",
        "ConnectionRefusedError(111, \"Connect call failed ('127.0.0.1', 10025)\")",
        "certificate of relay.example (CN=relay, O=Shop) expired; wait=40s, 100%, +4030",
    ):
        assert redacted(text) == text


def test_the_text_around_an_address_is_kept() -> None:
    assert redacted("421 4.2.1 <jeanne@people.example> over quota (try later)") == (
        "421 4.2.1 <[address]> over quota (try later)"
    )


@pytest.mark.parametrize(
    ("said", "secret"),
    [
        ("404 at https://x.example/u/AZm2-hidden_token", "hidden"),
        ("Authorization: Bearer hidden-of-the-crm", "hidden"),
        ("AUTH PLAIN AHNlY3JldABzZWNyZXQ=", "AHNlY3JldABzZWNyZXQ"),
        ("cannot read whsec_c2VjcmV0 here", "c2VjcmV0"),
    ],
)
def test_a_secret_sent_by_others_is_not_in_the_log(said: str, secret: str) -> None:
    assert secret not in redacted(said)


def test_redaction_takes_linear_time_and_space() -> None:
    """Counted in lines executed: a text twice as long must not be four times the work."""
    for piece in ("@", "a@", '"@', "a" * 50 + "@", "(@", ")@", "[at]", "\\x40", "=?a?q?"):
        short, long = (steps(piece * n) for n in (2_000, 8_000))
        assert long <= 8 * short + 1_000, piece


def steps(text: str) -> int:
    """The number of Python lines executed."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        redacted(text)
    finally:
        sys.settrace(None)
    return count


def test_others_cannot_start_a_line_or_control_the_terminal(written: io.StringIO) -> None:
    forged = '421 x\r\n{"event": "forged"}\n2026 [info]\x1b[2J\x1b]0;t\x07\u2028\u0085\x9b31m'
    sink()(Failed("apps", "upstream", forged))
    output = written.getvalue()
    assert output.count("\n") == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", output)


def test_an_endless_reply_makes_no_endless_line(written: io.StringIO) -> None:
    sink()(Failed("apps", "upstream", "x" * 100_000))
    assert len(written.getvalue()) < 3_000


def test_tracebacks_contain_no_address(written: io.StringIO) -> None:
    log = structlog.get_logger()
    try:
        try:
            raise KeyError("jeanne@people.example")
        except KeyError as error:
            raise RuntimeError(b"<jeanne@people.example>") from error
    except RuntimeError as error:
        sink().unexpected(error)
        log.error("internal error", exc_info=error, about=[error, {"jeanne@x": b"jeanne@x"}])
    output = written.getvalue()
    assert "test_secrets_and_logs.py" in output
    clean(output)


def test_messages_of_libraries_and_the_interpreter_are_redacted_too(written: io.StringIO) -> None:
    error = ValueError("jeanne@people.example")
    logging.getLogger("asyncio").error("Task of %s was never retrieved", error, exc_info=error)
    logging.getLogger("uvicorn.error").error("jeanne@people.example")
    logging.getLogger("httpx").info("POST https://x.example/u/AZm2secret")
    sys.excepthook(ValueError, error, None)
    thread = threading.Thread(target=int, args=("jeanne@people.example",))
    thread.start()
    thread.join()
    output = written.getvalue()
    clean(output)
    assert "AZm2secret" not in output
    if output.startswith("{"):
        lines = [json.loads(line) for line in output.splitlines()]
        assert len(lines) == 4
        assert all({"event", "level", "timestamp", "process"} <= line.keys() for line in lines)


def test_only_debug_logs_addresses_and_it_is_not_the_default(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.get_logger().debug("for the one who looks", address="jeanne@people.example")
    assert written.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(
        ServerSettings("relay.example", Path("state"), log_level="debug"), process="x"
    )
    structlog.get_logger().debug("for the one who looks", address="jeanne@people.example")
    structlog.get_logger().info("for all", address="paul@people.example")
    assert "jeanne@people.example" in written.getvalue()
    assert "paul" not in written.getvalue()


# The whole relay, with an upstream that mentions the recipient's address wherever it can.


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RelayProcess, FakeUpstream]]:
    till = listener("till", "receipts", default="receipts")
    milter = listener("mta", "receipts", default="receipts", protocol="milter")
    policy = listener("ask", "receipts", default="receipts", protocol="policy")
    config = {"listener": [till, milter, policy], "server": {"log_level": "info"}, "web": {}}
    with FakeUpstream() as mta:
        relay = RelayProcess(tmp_path_factory.mktemp("relay"), mta.address, config)
        with relay:
            yield relay, mta


SAID = '<jeanne@people.example> (jeanne%40people.example, "jeanne"@people.example)'
ACTIONS = {
    "421": Reply(f"421 4.3.2 {SAID} go away"),
    "451": Reply(f"451 4.3.0 {SAID} later"),
    "550": Reply(f"550 5.1.1 {SAID} unknown"),
    "lines": Reply(f"421-4.3.2 {SAID}\n421 4.3.2 {SAID}"),
    "malformed": Raw(f"{SAID}\r\n".encode()),
    "bare": Raw(f"2 {SAID}\n\n\x1b[31m".encode()),
    "unasked": Raw(f"250 2.0.0 ok\r\n421 4.3.2 {SAID} and more\r\n".encode()),
    "long": Raw(b"421 " + SAID.encode() * 2_000 + b"\r\n"),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "end", "rset"])
def test_whatever_an_upstream_replies_no_address_is_in_the_log(
    hostile: tuple[RelayProcess, FakeUpstream], step: Step, action: str
) -> None:
    relay, mta = hostile
    mta.drop_connections()
    mta.behaviours[:] = [At(step, ACTIONS[action])]
    relay.send(message(), "jeanne@people.example", sender="orders@shop.example")
    mta.behaviours.clear()
    clean(relay.output)


def test_the_client_still_gets_the_upstreams_own_words(
    hostile: tuple[RelayProcess, FakeUpstream],
) -> None:
    relay, mta = hostile
    mta.drop_connections()
    mta.behaviours[:] = [At("rcpt", Reply("550 5.1.1 <jeanne@people.example> unknown"))]
    said = relay.send(message(), "jeanne@people.example", sender="orders@shop.example")
    mta.behaviours.clear()
    assert said == (550, "5.1.1 <jeanne@people.example> unknown")


@pytest.mark.parametrize("name", ["till", "mta", "ask"])
def test_whatever_a_client_sends_no_address_is_in_the_log(
    hostile: tuple[RelayProcess, FakeUpstream], name: str
) -> None:

    relay, _ = hostile
    for said in (
        b"EHLO jeanne@people.example\r\nMAIL FROM:<jeanne@people.example\r\nQUIT\r\n",
        b"jeanne@people.example\r\n" * 30,
        b"\x00\x00\x00\x20Cjeanne@people.example\x00",
        b"\x00\x00\x00\x17Rjeanne@people.example\x00",
        b"recipient=jeanne@people.example\n\n",
        b"request=smtpd_access_policy\nrecipient=jeanne@people.example\nno\n\n",
    ):
        with socket.create_connection((LOOPBACK, relay.port(name)), timeout=10) as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    wait_for(lambda: relay.ready(), "the relay")
    clean(relay.output)


# I am on the machine, as another user, and look around.


def test_other_users_see_no_secret(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hidden = b64encode(b"what webhooks are signed with ..").decode()
    secret = tmp_path / "crm.secret"
    secret.write_text(f"whsec_{hidden}\n")
    secret.chmod(0o600)
    way_out = {"web": {"public_url": "http://127.0.0.1:1"}}
    streams = [{"name": "offers", "class": "marketing", "purpose": "o", "unsubscribe": "add"}]
    webhook = {"name": "crm", "url": "http://127.0.0.1:1/x", "secret_file": str(secret)}
    token = {"name": "crm", "sha256": sha256(b"our token").hexdigest(), "may": ["changes"]}
    config = {**way_out, "stream": streams, "webhook": [webhook], "token": [token]}
    with FakeUpstream() as mta:
        relay = RelayProcess(tmp_path_factory.mktemp("relay"), mta.address, config)
        state = Path(relay.config["server"]["state_dir"])
        state.rmdir()  # the relay creates its own
        relay.cold = True  # its environment comes from whoever started it
        relay.start()
        relay.must("suppress", "add", "jeanne@people.example", "--scope", "all")
        files = [path for path in state.rglob("*") if path.is_file()]
        open_to_others = [
            path.relative_to(state)
            for path in (state, *files)
            if path.stat().st_mode & 0o077
            and not (path.suffix in OF_THE_STORE and not state.stat().st_mode & 0o077)
        ]
        assert open_to_others == []
        keys = [path.read_text().split() for path in state.glob("*.key")]
        secrets = [hidden, *(word for words in keys for word in words if len(word) >= 40)]
        assert len(secrets) >= 3
        with urllib.request.urlopen(f"{relay.url}/metrics") as page:
            seen = [relay.output, page.read().decode(), relay.must("check")]
        seen += [
            Path(f"/proc/{pid}/{name}").read_text()
            for pid in relay.pids
            for name in ("cmdline", "environ")
        ]
        relay.kill()
    assert [word for word in secrets for text in seen if word in text] == []


OF_THE_STORE = frozenset({".db", ".db-wal", ".db-shm"})
"""SQLite creates these by the umask; nobody else may enter their folder."""
