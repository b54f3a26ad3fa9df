"""The attacker has found the port for unsubscribe links, API and metrics."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.settings import TokenSettings
from smtpproxy.sinks.collector import SnapshotCollector
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store.link_keys import LinkReader, ensure_link_keys, link_ring
from smtpproxy.web import app as web_app
from smtpproxy.web import forms, rates
from smtpproxy.web import server as web_server
from smtpproxy.web.api import operation
from smtpproxy.web.app import Monitoring, create_app
from smtpproxy.web.health import Health, Readiness
from smtpproxy.web.look import looks
from smtpproxy.web.server import serve_web
from smtpproxy.web.unsubscribe import Unsubscribe
from tests.kit.relay import REPOSITORY
from tests.kit.store import TrialStore
from tests.kit.traffic import settings
from tests.web.serving import api_over

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ID = "01JKB3Q00020CT1R0RZ1H6E7A8"
ONE_CLICK = b"List-Unsubscribe=One-Click"
FORM = "application/x-www-form-urlencoded"
FRAMEWORKS = ("uvicorn", "starlette", "h11", "python", "asgi", "traceback")


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: str


class Site:
    """Everything public, on a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = TrialStore(timeout=60.0, copy=True)  # for a burst of writes on any disk
        self.trusted: frozenset[str] = frozenset()
        self.port = 0
        ensure_link_keys(folder, T0.date())

    def link(self, recipient: str = "jeanne@people.example") -> str:
        told = Unsubscription(recipient, "purpose:offers", ID, stream_tag("offers"))
        return f"/u/{link_ring(self.folder).seal(told)}"

    async def connect(self, address: str = "127.0.0.1") -> "Connection":
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address, 0)
        )
        return Connection(reader, writer)

    async def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> Answer:
        connection = await self.connect()
        await connection.send(request(path, method, body, Connection="close", **headers))
        answer = await connection.answer(method)
        connection.close()
        return answer

    async def unsubscribe(self, recipient: str = "jeanne@people.example") -> int:
        answer = await self.ask(self.link(recipient), "POST", ONE_CLICK, Content_Type=FORM)
        return answer.status

    async def suppressed(self, recipient: str = "jeanne@people.example") -> bool:
        return bool(await self.store.suppressions(recipient))


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode()
        lines = head.split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        body = await asyncio.wait_for(self.reader.readexactly(size), 20)
        return Answer(int(lines[0].split()[1]), headers, body.decode())

    async def ended(self) -> bytes:
        """Everything received until the other side closes the connection."""
        said = b""
        try:
            while more := await asyncio.wait_for(self.reader.read(4096), 20):
                said += more
        except ConnectionError:
            pass
        return said

    async def drip(self) -> None:
        """Send an octet now and then until the other side gives up."""
        async with asyncio.timeout(20):
            while self.open():
                try:
                    await self.send(b"a")
                except ConnectionError:
                    return
                await asyncio.sleep(0.05)

    def open(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None

    def close(self) -> None:
        self._writer.close()


def request(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    fields = {"Host": "unsubscribe.example", **headers}
    if body:
        fields["Content_Length"] = str(len(body))
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)

    async def stats() -> Snapshot:
        return Snapshot()

    async def health() -> Health:
        return Health(1, 1)

    async def ready() -> Readiness:
        return Readiness("ok", "ok", "ok")

    stop = asyncio.Event()
    token = TokenSettings("crm", sha256(b"crm").hexdigest(), frozenset({"changes", "check"}))
    collector = SnapshotCollector(settings(), version="0", started_at=1.0)
    api = api_over(site.store, replace(settings(), tokens=(token,)), stop=stop)
    unsubscribe = Unsubscribe(
        LinkReader(tmp_path), lambda: site.store, {}, looks(settings()), now=lambda: T0
    )
    parts = (Monitoring(stats, health, ready, collector), api, unsubscribe)
    app = create_app(*(part.routes for part in parts))
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    site.port = sock.getsockname()[1]
    serving = asyncio.create_task(
        serve_web(app, sock, stop, trusts=lambda peer: peer in site.trusted)
    )
    yield site
    stop.set()
    await asyncio.wait_for(serving, 20)
    await site.store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a fraction of a second; tests wait for seconds."""
    for phase in web_server.WITHIN:
        monkeypatch.setitem(web_server.WITHIN, phase, 0.3)
    monkeypatch.setattr(web_server, "GRACE", 0.0)


@pytest.fixture
def crowded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients over their share lose their oldest connection at once, and none by a deadline."""
    for phase in web_server.WITHIN:
        monkeypatch.setitem(web_server.WITHIN, phase, 60.0)
    monkeypatch.setattr(web_server, "GRACE", 0.0)


# I take all connections and stay silent.


async def test_a_thousand_idle_connections_keep_nobody_from_unsubscribing(site: Site) -> None:
    held = [await site.connect() for _ in range(1_005)]
    assert await site.unsubscribe() == 200
    assert await site.suppressed()
    assert await site.unsubscribe("paul@people.example") == 200
    for each in held:
        each.close()


async def test_nor_do_connections_with_half_a_header(site: Site) -> None:
    held = [await site.connect() for _ in range(1_005)]
    for each in held:
        try:
            await each.send(b"POST /u/x HTTP/1.1\r\nHost: ")
        except ConnectionError:
            continue
    assert await site.unsubscribe() == 200
    for each in held:
        each.close()


async def test_the_oldest_connection_of_the_busiest_address_gives_way(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "MOST", 20)
    other = await site.connect("127.0.0.2")
    mine = [await site.connect("127.0.0.3") for _ in range(25)]
    assert await site.unsubscribe() == 200
    assert await asyncio.wait_for(mine[0].ended(), 5) == b""
    await other.send(request("/healthz"))
    assert (await other.answer()).status == 200
    await mine[-1].send(request("/healthz"))
    assert (await mine[-1].answer()).status == 200
    for each in (other, *mine):
        each.close()


async def test_an_address_is_held_to_its_share_even_while_there_is_room(
    site: Site, crowded_at_once: None
) -> None:
    mine = [await site.connect("127.0.0.3") for _ in range(web_server.PER_ADDRESS + 5)]
    for each in mine[:5]:
        assert await each.ended() == b""
    assert all(each.open() for each in mine[5:])
    for each in mine:
        each.close()


async def test_a_burst_of_a_mailbox_provider_is_served(site: Site) -> None:
    """Three times the share of an address, all at once."""
    people = [f"person{n}@people.example" for n in range(3 * web_server.PER_ADDRESS)]
    statuses = await asyncio.gather(*[site.unsubscribe(person) for person in people])
    assert statuses == [200] * len(people)
    assert all([await site.suppressed(person) for person in people])


# I send as slowly as I can.


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /u/x HTTP/1.1\r\nHost: unsubscribe.example\r\nX: ",
        b"POST /u/x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nList-Unsub",
        b"POST /v1/suppressions/check HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer crm\r\n"
        b"Content-Length: 100\r\n\r\n{",
        b"POST /nowhere HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
async def test_incomplete_requests_time_out(site: Site, impatient: None, sent: bytes) -> None:
    connection = await site.connect()
    await connection.send(sent)
    said = await connection.ended()
    assert not said or said.startswith((b"HTTP/1.1 408", b"HTTP/1.1 404")), said
    assert await site.unsubscribe() == 200


async def test_an_octet_now_and_then_gains_no_time(site: Site, impatient: None) -> None:
    connection = await site.connect()
    await connection.send(b"GET /healthz HTTP/1.1\r\nHost: a.example\r\nX-Slow: ")
    await connection.drip()
    said = await connection.ended()
    assert not said or b"408" in said


async def test_nor_does_a_body_dripping_after_an_answer(site: Site, impatient: None) -> None:
    connection = await site.connect()
    await connection.send(
        b"POST /healthz HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n"
    )
    assert (await connection.answer()).status == 405
    await connection.drip()
    assert await connection.ended() == b""


async def test_an_idle_connection_times_out_even_with_a_header_begun(
    site: Site, impatient: None
) -> None:
    connection = await site.connect()
    await connection.send(request("/healthz"))
    assert (await connection.answer()).status == 200
    await connection.send(b"GET ")
    assert b"408" in await connection.ended()
    idle = await site.connect()
    await idle.send(request("/healthz"))
    assert (await idle.answer()).status == 200
    assert await idle.ended() == b""


async def test_a_proxy_may_keep_a_connection_for_longer(
    site: Site, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes first: otherwise its next request could be lost, and its client get 502."""
    monkeypatch.setattr(web_server, "PROXY_KEEP_ALIVE", 1.5)
    site.trusted = frozenset({"127.0.0.1"})
    connection = await site.connect()
    begun = asyncio.get_running_loop().time()
    for pause in (0.9, 0.0):
        await connection.send(request("/healthz"))
        assert (await connection.answer()).status == 200
        await asyncio.sleep(pause)
    assert await connection.ended() == b""
    assert asyncio.get_running_loop().time() - begun > 0.9 + 1.5


async def test_unread_answers_are_not_kept(site: Site, impatient: None) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", site.port))
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    ended = False
    async with asyncio.timeout(20):
        while not ended:
            try:
                await loop.sock_sendall(sock, request("/v1/docs") * 50)
            except ConnectionError:
                ended = True
    sock.close()


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    connection = await site.connect()
    await connection.send(request("/healthz") * 200 + request("/nowhere"))
    statuses = [(await connection.answer()).status for _ in range(201)]
    assert statuses == [200] * 200 + [404]
    connection.close()


# I say who I am.


async def test_an_untrusted_x_forwarded_for_changes_nothing(
    site: Site, crowded_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each request could invent a client with its own share."""
    monkeypatch.setattr(web_server, "PER_ADDRESS", 5)
    mine = []
    for n in range(10):
        mine.append(await site.connect("127.0.0.3"))
        await mine[-1].send(unfinished(f"192.0.2.{n}"))
        await asyncio.sleep(0.01)
    for each in mine[:5]:
        await each.ended()
    assert all(each.open() for each in mine[5:])
    for each in mine:
        each.close()


async def test_clients_behind_a_trusted_proxy_have_their_own_shares(
    site: Site, crowded_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.trusted = frozenset({"127.0.0.3"})
    monkeypatch.setattr(web_server, "PER_ADDRESS", 5)
    many = [await site.connect("127.0.0.3") for _ in range(10)]
    for n, each in enumerate(many):
        await each.send(unfinished(f"192.0.2.{n}"))
    one = [await site.connect("127.0.0.3") for _ in range(10)]
    for each in one:
        await each.send(unfinished("10.9.9.9, 198.51.100.7"))  # the first is the client's claim
        await asyncio.sleep(0.01)
    for each in one[:5]:
        assert b"408" in await each.ended()
    assert all(each.open() for each in (*many, *one[5:]))
    for each in (*many, *one):
        each.close()


def unfinished(forwarded_for: str) -> bytes:
    return request(
        "/v1/suppressions/check", "POST", b"",
        Authorization="Bearer crm", Content_Length="100", X_Forwarded_For=forwarded_for,
    )  # fmt: skip


# I look for defaults of the framework.


UNKNOWN = (
    "{link}/", "/{link}", "//evil.example{link}", "/u/", "/u", "/u//", "{link}/x", "/",
    "/metrics/", "/healthz/", "/readyz/", "/v1/docs/", "/v1", "/v1/", "/admin", "/docs",
    "/redoc", "/openapi.json", "/static/x", "/favicon.ico", "/robots.txt", "//metrics",
    "/u/..%2fmetrics", "/u%2F{token}", "%2Fu/{token}", "/u/{token}%2F", "/u/%2e%2e/metrics",
    "/u/../metrics", "/METRICS", "/metrics%00", "/metrics;x",
    "/v1/suppressions/check/",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
async def test_only_documented_paths_exist(site: Site, method: str) -> None:
    link = site.link()
    for unknown in UNKNOWN:
        path = unknown.format(link=link, token=link.removeprefix("/u/"))
        answer = await site.ask(
            path, method, ONE_CLICK if method == "POST" else b"", Host="evil.example",
            Content_Type=FORM,
        )  # fmt: skip
        assert answer.status == 404, (unknown, answer)
        assert "location" not in answer.headers, unknown
        no_framework(answer)
        assert "evil.example" not in str(answer), unknown
        assert not await site.suppressed(), unknown


METHODS = {
    "/metrics": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/v1/docs": {"GET", "HEAD"},
    "/v1/openapi.json": {"GET", "HEAD"},
    "/v1/suppressions/changes": {"GET", "HEAD"},
    "/v1/suppressions/check": {"POST"},
    "/u/x": {"GET", "HEAD", "POST"},
}


async def test_other_methods_get_405_and_the_allowed_ones(site: Site) -> None:
    said = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "SPAM")
    for path, method in product(METHODS, said):
        answer = await site.ask(path, method)
        no_framework(answer)
        if method not in METHODS[path]:
            assert answer.status == 405, (path, method, answer)
            assert set(answer.headers["allow"].split(", ")) == METHODS[path]
        else:
            assert answer.status in (200, 400, 401, 404), (path, method, answer)


async def test_no_answer_may_be_cached_or_sniffed(site: Site) -> None:
    for path in (*METHODS, "/nowhere", site.link()):
        answer = await site.ask(path)
        cached = "no-cache" if path in ("/v1/docs", "/v1/openapi.json") else "no-store"
        assert answer.headers["cache-control"] == cached, path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["referrer-policy"] == "no-referrer", path
        assert "default-src 'none'" in answer.headers["content-security-policy"], path


FORMS = (
    ("application/x-www-form-urlencoded", ONE_CLICK, 200),
    ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", ONE_CLICK, 200),
    ("", ONE_CLICK, 200),
    ("text/plain", ONE_CLICK, 415),
    ("application/json", b'{"List-Unsubscribe": "One-Click"}', 415),
    ("application/x-www-form-urlencodedx", ONE_CLICK, 415),
    ("multipart/mixed; boundary=x", ONE_CLICK, 415),
    ("multipart/form-data; boundary=x", ONE_CLICK, 400),
    ("multipart/form-data", b"--\r\n\r\nOne-Click\r\n----", 400),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\n'
        b"One-Click\r\n--x--\r\n",
        200,
    ),
    (
        'multipart/form-data; charset=utf-8; Boundary="x y"',
        b"--x y\nContent-Type: text/plain\ncontent-disposition: form-data;"
        b" name=List-Unsubscribe\n\nOne-Click\n--x y--",
        200,
    ),
    (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data; name=" + b"(" * 15_000 + b"\r\n\r\n\r\n--x--",
        400,
    ),
    ("multipart/form-data; boundary=" + "x" * 5_000, ONE_CLICK, 400),
    ("application/x-www-form-urlencoded", b"&" * 16_000, 400),
    ("application/x-www-form-urlencoded", b"a" * 100_000, 400),
)


async def test_only_the_content_types_of_rfc_8058_are_accepted(site: Site) -> None:
    for number, (kind, body, status) in enumerate(FORMS):
        who = f"person{number}@people.example"
        headers = {"Content_Type": kind} if kind else {}
        answer = await site.ask(site.link(who), "POST", body, **headers)
        assert answer.status == status, kind
        assert await site.suppressed(who) is (status == 200), kind
        no_framework(answer)


REQUESTS = (
    (b"GET /u/" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /u/x?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"SSH-2.0-x\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    (b"POST /u/x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /u/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /u/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"GET http://evil.example/metrics HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
     b"Upgrade: websocket\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
     b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", 200),
)  # fmt: skip


async def test_malformed_requests_are_refused(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    for sent, status in REQUESTS:
        connection = await site.connect()
        await connection.send(sent)
        answer = await connection.answer()
        assert answer.status == status, sent
        no_framework(answer)
        if status != 200:
            assert "error" in json.loads(answer.body), sent
        connection.close()
        assert capfd.readouterr().err == "", "nobody may write to the log like this"


async def test_an_internal_failure_is_500_without_details(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: Sequence[object]) -> None:
        raise RuntimeError("the secret of jeanne@people.example")

    monkeypatch.setattr(site.store, "suppress", broken)
    answer = await site.ask(site.link(), "POST", ONE_CLICK, Content_Type=FORM)
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": "internal error"}
    assert "secret" not in str(answer)
    assert "ASGI" not in capfd.readouterr().err


def test_the_limits_are_those_documented() -> None:
    text = (REPOSITORY / "docs" / "limits.md").read_text()
    section = text.partition("\n## HTTP\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ")][1:]
    told = {what.strip(): limit.strip() for what, limit in cells}
    within = web_server.WITHIN
    assert told == {
        "connections at once": f"{web_server.MOST}",
        "connections at once from one address": f"{web_server.PER_ADDRESS}",
        "time between two requests": f"{within['idle']:.0f} s",
        "time between two requests of a proxy in `[web] trusted`": (
            f"{web_server.PROXY_KEEP_ALIVE:.0f} s"
        ),
        "time for a whole header section": f"{within['header']:.0f} s",
        "time for a whole body": f"{within['body']:.0f} s",
        "time to read an answer, for each 64 KB": f"{within['unread']:.0f} s",
        "octets of a header section": f"{web_app.LARGEST_HEADER:,}",
        "octets of a target, with its query": f"{web_app.LONGEST_TARGET:,}",
        "octets of an unsubscribe form": f"{forms.LARGEST_FORM:,}",
        "uses of one unsubscribe link per minute": f"{rates.PER_MINUTE}",
        "octets and addresses, or suppressions, in a request to the API": (
            f"{operation.LARGEST // 1024**2} MiB, {operation.MOST_ADDRESSES}"
        ),
        "requests with one token per minute": "`[[token]] requests_per_minute`",
    }


def no_framework(answer: Answer) -> None:
    said = f"{answer.headers} {answer.body}".lower()
    assert "server" not in answer.headers
    assert [name for name in FRAMEWORKS if name in said] == []
