"""Findings from connections to the unsubscribe link and to the upstream MTA."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from msgspec.structs import replace

from smtpproxy.doctor.finding import Check, Finding, Lookup
from smtpproxy.doctor.machine import certificate
from smtpproxy.doctor.run import Doctor
from smtpproxy.doctor.unsubscribe import unsubscribe
from smtpproxy.doctor.upstream import UpstreamSeen, judge_upstream, look, upstream
from smtpproxy.settings import (
    ListenerSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TcpAddress,
    UpstreamSettings,
)
from tests.kit.certificates import Authority
from tests.kit.dns import NameServer
from tests.kit.https import HttpsServer
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.upstream import At, Close, FakeUpstream, Hold, Raw, Reply

NOW = datetime.now(UTC)
HOST = "unsubscribe.shop.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))


@pytest.fixture
def web(authority: Authority, trusted: None) -> Iterator[HttpsServer]:
    with HttpsServer(authority.issue(HOST), GET=404, POST=404) as server:
        yield server


async def _probed(lookup: Lookup, web: HttpsServer, token: str | None = None) -> Finding:
    return await unsubscribe(lookup, f"https://{HOST}:{web.port}/mail", token, NOW)


async def test_a_link_that_works(lookup: Lookup, web: HttpsServer) -> None:
    found = await _probed(lookup, web)
    assert found.status == "pass", found
    assert "89 days" in found.text or "90 days" in found.text
    (get, path, host, _), (post, same, _, body) = web.asked
    assert (get, post, host) == ("GET", "POST", f"{HOST}:{web.port}")
    assert path == same
    assert path.startswith("/mail/u/")
    assert "GET is answered" in found.text
    assert body == b"List-Unsubscribe=One-Click"


async def test_a_link_must_be_served_by_this_relay(lookup: Lookup, web: HttpsServer) -> None:
    found = await _probed(lookup, web, "ours")
    assert (found.status, "it is another relay" in found.text) == ("fail", True), found
    assert [path == "/mail/u/ours" for _, path, _, _ in web.asked] == [True, False]
    web.answers["GET"] = 200
    found = await _probed(lookup, web, "ours")
    assert (found.status, "a link made with the relay's keys is shown" in found.text) == (
        "pass",
        True,
    ), found


@pytest.mark.parametrize(
    ("get", "post", "text"),
    [
        (302, 404, "GET is answered 302, redirecting to https://elsewhere.example/"),
        (200, 303, "POST is answered 303"),
        (401, 404, "GET is answered 401"),
        (200, 403, "POST is answered 403"),
        (200, 405, "POST is answered 405"),
        (200, 200, "it is not this relay"),
        (502, 502, "GET is answered 502"),
    ],
)
async def test_a_link_that_does_not_work(
    lookup: Lookup, web: HttpsServer, get: int, post: int, text: str
) -> None:
    web.answers.update(GET=get, POST=post)
    found = await _probed(lookup, web)
    assert (found.status, text in found.text) == ("fail", True), found


async def test_an_invalid_certificate(
    lookup: Lookup, authority: Authority, trusted: None, tmp_path: Path
) -> None:
    with HttpsServer(authority.issue("other.example"), GET=404, POST=404) as web:
        found = await _probed(lookup, web)
        assert (found.status, "ostname mismatch" in found.text) == ("fail", True), found
    with HttpsServer(authority.issue(HOST, days=-1, file="old"), GET=404, POST=404) as web:
        found = await _probed(lookup, web)
        assert (found.status, "expired" in found.text) == ("fail", True), found
    with HttpsServer(authority.issue(HOST, days=3, file="soon"), GET=404, POST=404) as web:
        found = await _probed(lookup, web)
        assert (found.status, "expires in 3 days" in found.text) == ("warn", True), found
    stranger = Authority(tmp_path, "stranger")
    with HttpsServer(stranger.issue(HOST), GET=404, POST=404) as web:
        assert "certificate verify failed" in (await _probed(lookup, web)).text


async def test_a_link_to_an_unreachable_host(
    lookup: Lookup, dns: NameServer, trusted: None
) -> None:
    url = f"https://{HOST}:{free_port()}"
    assert "cannot be reached" in (await unsubscribe(lookup, url, None, NOW)).text
    dns.fail(HOST, "servfail")
    assert "no answer" in (await unsubscribe(lookup, url, None, NOW)).text
    gone = await unsubscribe(lookup, "https://gone.shop.example", None, NOW)
    assert (gone.status, "has no address" in gone.text) == ("fail", True)
    assert (await unsubscribe(lookup, None, None, NOW)).status == "unknown"
    assert (await unsubscribe(lookup, "http://localhost:8025", None, NOW)).status == "fail"


def _settings(port: int, **more: object) -> UpstreamSettings:
    return replace(UpstreamSettings(TcpAddress(LOOPBACK, port)), **more)  # type: ignore[arg-type]


async def test_an_upstream_on_this_machine_needs_no_tls() -> None:
    with FakeUpstream() as mta:
        found = await upstream(_settings(int(mta.address.rpartition(":")[2])), "relay.example", NOW)
        assert found.status == "pass", found
        assert ("EHLO relay.example" in [line for _, line in mta.commands]) is True
        asked = _settings(int(mta.address.rpartition(":")[2]), tls="starttls")
        found = await upstream(asked, "relay.example", NOW)
        assert (found.status, "does not offer STARTTLS" in found.text) == ("fail", True)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (At("connect", Reply("554 go away")), "it greets with 554"),
        (At("connect", Close()), "went away"),
        (At("connect", Raw(b"\xff\xfe\x00 HTTP/1.1 400\r\n")), "not a reply line"),
        (At("ehlo", Reply("502 what?")), "answers EHLO with 502"),
        (At("ehlo", Raw(b"250-mta\r\n250 STARTTLS\r\n")), "answers STARTTLS with 50"),
    ],
)
async def test_an_upstream_that_does_not_accept_mail(behaviour: At, text: str) -> None:
    with FakeUpstream(behaviour) as mta:
        found = await upstream(_settings(int(mta.address.rpartition(":")[2])), "relay.example", NOW)
    assert (found.status, text in found.text) == ("fail", True), found


async def test_no_upstream() -> None:
    found = await upstream(_settings(free_port()), "relay.example", NOW)
    assert (found.status, "no connection" in found.text) == ("fail", True)


async def test_each_address_of_an_upstream_is_checked(
    lookup: Lookup, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first was; nobody heard of the others until it was down."""
    name = "mta.shop.example"
    pair = authority.issue(name, days=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    good = Controller(Sink(), LOOPBACK, free_port(), tls_context=context)
    good.start()
    with FakeUpstream() as plain, FakeUpstream(At("connect", Hold())) as silent:
        ports = [good.port, plain.port, free_port(), silent.port]

        def look_up(*_: object, **__: object) -> object:
            return [(2, 1, 6, "", (LOOPBACK, port)) for port in ports]

        monkeypatch.setattr("smtpproxy.first_address.getaddrinfo", look_up)
        own = UpstreamSettings(TcpAddress(name, 25), tls="starttls", ca_file=authority.path)
        store = StoreSettings(url=f"sqlite://{tmp_path}/relay.db")
        settings = Settings(ServerSettings("relay.example", tmp_path), (), own, store=store)

        async def examined() -> dict[int, tuple[str, str]]:
            report = await Doctor(settings, lookup, NOW, 1.5).examine([], [Check.UPSTREAM])
            return {
                int(each.subject.rpartition(":")[2]): (each.status, each.text)
                for each in report.findings
            }

        try:
            found = await examined()
            assert [found[port][0] for port in ports] == ["pass", "warn", "warn", "warn"], found
            assert "STARTTLS; mail goes to another address" in found[ports[1]][1]
            ports = ports[1:]
            found = await examined()
            assert [found[port][0] for port in ports] == ["fail"] * 3, found
            assert "no connection" in found[ports[1]][1]
            assert "not finished" in found[ports[2]][1]
        finally:
            silent.release()
            good.stop()


def _elsewhere(**more: object) -> UpstreamSettings:
    return replace(UpstreamSettings(TcpAddress("mta.shop.example", 25)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tls", "seen", "status", "text"),
    [
        ("none", UpstreamSeen(), "fail", "in the clear"),
        (
            "none",
            UpstreamSeen("", "TLSv1.3", "", NOW + timedelta(90)),
            "warn",
            "does not require it",
        ),
        ("starttls", UpstreamSeen("", "TLSv1.3", "", NOW + timedelta(90)), "pass", "90 days"),
        ("starttls", UpstreamSeen("", "TLSv1.3", "", NOW + timedelta(3)), "warn", "3 days"),
        ("starttls", UpstreamSeen("", untrusted="self-signed"), "fail", "self-signed"),
        ("none", UpstreamSeen("", untrusted="self-signed"), "warn", "self-signed"),
    ],
)
def test_an_upstream_elsewhere(tls: str, seen: UpstreamSeen, status: str, text: str) -> None:
    found = judge_upstream(_elsewhere(tls=tls), seen, NOW)
    assert (found.status, text in found.text) == (status, True), found


async def test_the_certificate_of_an_upstream_is_read_inside_starttls(
    authority: Authority,
) -> None:
    pair = authority.issue("mta.shop.example", days=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    mta = Controller(Sink(), LOOPBACK, free_port(), tls_context=context)
    mta.start()
    try:
        good = _settings(
            mta.port, tls="starttls", ca_file=authority.path, tls_name="mta.shop.example"
        )
        seen = await look(good, "relay.example")
        assert (seen.failure, seen.protocol) == ("", "TLSv1.3")
        assert seen.expires is not None
        assert 29 <= (seen.expires - NOW).days <= 30
        wrong = await look(replace(good, tls_name="other.example"), "relay.example")
        assert "mismatch" in wrong.untrusted
    finally:
        mta.stop()


def test_the_certificate_of_a_listener(authority: Authority, tmp_path: Path) -> None:
    def judged(days: float, since: float = -300) -> str:
        pair = authority.issue("relay.example", since=since, days=days, file=f"l{days}")
        own = ListenerSettings(
            "apps", TcpAddress(LOOPBACK, 1), tls="starttls",
            certificate=pair.certificate, private_key=pair.key,
        )  # fmt: skip
        found = certificate(own, NOW)
        assert found is not None
        return found.status

    assert [judged(90), judged(10), judged(-1)] == ["pass", "warn", "fail"]
    assert judged(90, since=1) == "fail", "not valid yet"
    assert certificate(ListenerSettings("a", TcpAddress(LOOPBACK, 1)), NOW) is None
