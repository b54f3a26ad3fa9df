"""Audit log lines sent to a collector: each at least once, without personal data."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.shipping.collectors import TOKEN, HttpTarget, SyslogTarget
from smtpproxy.shipping.lines import LineShipper, Sent
from smtpproxy.shipping.position import held
from smtpproxy.shipping.targets import LineTarget, TargetUnavailable, TargetWrong
from smtpproxy.sinks.audit.chain import START, take_apart
from tests.kit.journal import Clock, decided, journal, relayed, segments

ANNA = "anna@people.example"


class Collector:
    """Accepts lines over HTTP; `codes` are its next answers instead of 200."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.codes: list[int] = []
        self.sizes: list[int] = []
        self.tokens: set[str | None] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.sizes.append(len(body))
                collector.tokens.add(self.headers["Authorization"])
                code = collector.codes.pop(0) if collector.codes else 200
                if code == 200:
                    collector.raw += body.splitlines()
                    collector.lines += [json.loads(line) for line in body.splitlines()]
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/audit"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def fill(folder: Path, clock: Clock, *people: str) -> None:
    log = journal(folder, clock)
    for person in people:
        entry = decided(clock, person)
        await log.commit(entry)
        log.outcome(relayed(entry.id))
        clock.tick(seconds=1)
    log.close()


def ship(folder: Path, target: LineTarget) -> Sent:
    try:
        with held(folder.parent, "x") as position:
            return LineShipper(folder, "00aa", "mx1.example", target, position).look()
    finally:
        target.close()


async def test_each_line_has_its_place_and_no_personal_data(
    folder: Path, collector: Collector
) -> None:
    clock = Clock()
    await fill(folder, clock, ANNA, "paul@people.example")
    sent = ship(folder, HttpTarget(collector.url))
    assert len(collector.lines) == sent.rows + sent.anchors
    assert b"people.example" not in b"".join(collector.raw)
    assert {(each["relay"], each["host"]) for each in collector.lines} == {("00aa", "mx1.example")}
    keys = [(each["file"], each["row"]) for each in collector.lines]
    assert len(set(keys)) == len(keys)
    assert {each["line"]["entry"]["kind"] for each in collector.lines} >= {"decision", "anchor"}

    previous = START.hash.encode()
    for raw, each in zip(collector.raw, collector.lines, strict=True):
        if each["file"] != "anchors.ndjson":  # so that the chain can be followed there
            sealed = take_apart(raw[raw.index(b'"line":') + 7 : -1] + b"\n")
            assert sealed.hash_after(previous) == sealed.hash
            previous = sealed.hash


async def test_the_token_from_the_environment_is_sent(
    folder: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "s3cret")
    await fill(folder, Clock(), ANNA)
    ship(folder, HttpTarget(collector.url))
    assert collector.tokens == {"Bearer s3cret"}


async def test_shipping_resumes_where_it_was_accepted(folder: Path, collector: Collector) -> None:
    clock = Clock()
    await fill(folder, clock, ANNA)
    collector.codes = [503]
    with pytest.raises(TargetUnavailable, match="answered 503") as raised:
        ship(folder, HttpTarget(collector.url + "?token=secret"))
    assert "secret" not in str(raised.value)
    assert ship(folder, HttpTarget(collector.url)).rows
    assert ship(folder, HttpTarget(collector.url)) == Sent()
    before = len(collector.lines)
    await fill(folder, clock, "paul@people.example")
    sent = ship(folder, HttpTarget(collector.url))
    assert len(collector.lines) == before + sent.rows + sent.anchors
    next((folder.parent / "shipped").glob("*.json")).unlink()
    ship(folder, HttpTarget(collector.url))
    keys = [(each["file"], each["row"]) for each in collector.lines]
    assert len(keys) == 2 * len(set(keys)), "duplicates are recognisable by their place"


async def test_anchors_that_were_not_accepted_are_sent_next_time(
    folder: Path, collector: Collector
) -> None:
    await fill(folder, Clock(), ANNA)
    collector.codes = [200, 503, 503]
    target = HttpTarget(collector.url)
    with held(folder.parent, "x") as position:
        shipper = LineShipper(folder, "00aa", "mx1.example", target, position)
        for _ in range(2):
            with pytest.raises(TargetUnavailable):
                shipper.look()
    target.close()
    assert ship(folder, HttpTarget(collector.url)) == Sent(anchors=1)
    assert collector.lines[-1]["file"] == "anchors.ndjson"


async def test_an_anchor_being_written_is_sent_once_complete(
    folder: Path, collector: Collector
) -> None:
    await fill(folder, Clock(), ANNA)
    anchors = folder / "anchors.ndjson"
    whole = anchors.read_bytes()
    anchors.write_bytes(whole[:50])
    target = HttpTarget(collector.url)
    with held(folder.parent, "x") as position:
        shipper = LineShipper(folder, "00aa", "mx1.example", target, position)
        assert shipper.look().anchors == 0
        with anchors.open("ab") as file:
            file.write(whole[50:])
        assert shipper.look() == Sent(anchors=1)
        assert shipper.look() == Sent()
    target.close()


async def test_a_line_whose_personal_parts_are_unknown_is_not_sent(
    folder: Path, collector: Collector
) -> None:
    await fill(folder, Clock(), ANNA)
    (path,) = segments(folder)
    path.write_bytes(path.read_bytes().replace(b'"personal":[{', b'"personal":[ {'))
    assert ANNA.encode() in path.read_bytes()
    ship(folder, HttpTarget(collector.url))
    assert b"people.example" not in b"".join(collector.raw)


def _longest_line(folder: Path) -> int:
    (file,) = folder.glob("0*.ndjson")
    return max(map(len, file.read_bytes().splitlines()))


async def test_a_request_is_no_larger_than_web_servers_accept(
    folder: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(folder, Clock(), *(f"person{n}@people.example" for n in range(20)))
    largest = _longest_line(folder)
    monkeypatch.setattr("smtpproxy.shipping.lines._MOST", 3 * largest)
    sent = ship(folder, HttpTarget(collector.url))
    assert len(collector.lines) == sent.rows + sent.anchors
    assert 3 < len(collector.sizes) < sent.rows / 2
    assert max(collector.sizes) < 4 * largest
    monkeypatch.setattr("smtpproxy.shipping.lines._MOST", 1)
    next((folder.parent / "shipped").glob("*.json")).unlink()
    collector.sizes.clear()
    ship(folder, HttpTarget(collector.url))
    assert len(collector.sizes) == sent.rows + sent.anchors, "each by itself, however large"


async def test_syslog_gets_a_message_per_line_and_a_lost_one_is_a_failure(
    folder: Path,
) -> None:
    await fill(folder, Clock(), ANNA)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        sent = ship(folder, SyslogTarget(host, port, "mx1.example"))
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            messages = stream.read().splitlines()
    assert len(messages) == sent.rows + sent.anchors
    assert all(message.startswith(b"<134>1 20") for message in messages)
    head, _, body = messages[1].partition(b" - audit - ")
    assert head.split()[2:] == [b"mx1.example", b"smtpproxy"]
    assert json.loads(body)["row"] == 2
    assert b"people.example" not in b"".join(messages)
    await fill(folder, Clock(), ANNA)
    with pytest.raises(TargetUnavailable, match="refused"):
        ship(folder, SyslogTarget(host, port, "mx1.example"))


def test_a_syslog_collector_that_has_closed_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        target = SyslogTarget(host, port, "mx1.example")
        for _ in range(2):  # it reconnects
            target.send([b"{}\n"])
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1000).endswith(b" - audit - {}\n")
            with pytest.raises(TargetUnavailable, match="closed the connection"):
                target.send([b"{}\n"])


def test_a_syslog_collector_that_reads_nothing_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtpproxy.shipping.collectors._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        target = SyslogTarget(host, port, "mx1.example")
        with pytest.raises(TargetUnavailable, match="timed out"):
            target.send([b"x" * 1_000_000] * 20)


def test_lines_are_never_sent_unencrypted() -> None:
    with pytest.raises(TargetWrong, match="https"):
        HttpTarget("http://collector.example/audit")
