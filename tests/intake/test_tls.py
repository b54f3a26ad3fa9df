"""TLS with clients: STARTTLS and implicit, changing certificates, misbehaving clients."""

import contextlib
import hashlib
import socket
import ssl
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.events import Decided, FilesRead, TlsHandshake
from smtpproxy.intake.session import AT_ONCE
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.kit.certificates import Authority, Pair
from tests.kit.ports import wait_for
from tests.kit.upstream import FakeUpstream


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def keys(authority: Authority, tls: str = "starttls", **more: Any) -> dict[str, Any]:
    pair = authority.issue("relay.example", file="server")
    return {
        "tls": tls,
        "certificate": str(pair.certificate),
        "private_key": str(pair.key),
        **more,
    }


def offered(client: Client) -> list[str]:
    client.send("EHLO client.example")
    lines = []
    while (line := client.line())[3:4] == "-":
        lines.append(line[4:])
    return [*lines, line[4:]]


def message(client: Client) -> str:
    client.begin()
    return client.say("Subject: x", "", "hello", ".")


def outcomes(intake: Intake) -> list[str]:
    return [event.outcome for event in intake.of(TlsHandshake)]


def test_a_message_passes_over_starttls(
    listen: Listen, authority: Authority, upstream: FakeUpstream
) -> None:
    intake = listen(default_stream="receipts", streams=["receipts"], **keys(authority))
    with intake.client() as client:
        assert client.reply().startswith("220 ")
        assert "STARTTLS" in offered(client)
        assert client.say("STARTTLS") == "220 2.0.0 begin TLS"
        client.secure(authority.client_context())
        assert client.say("MAIL FROM:<a@shop.example>") == "503 5.5.1 send EHLO first"
        assert "STARTTLS" not in offered(client)
        assert client.say("STARTTLS") == "503 5.5.1 TLS is already active"
        client.begin()
        reply = client.say("From: a@shop.example", "Subject: x", "", "hello", ".")
        assert reply.startswith("250 ")
        assert client.say("QUIT").startswith("221 ")
        assert client.rest() == []
    assert b"with ESMTPS id" in upstream.messages[0].data
    assert outcomes(intake) == ["ok"]
    assert intake.wait_closed() == ["quit"]


def test_with_implicit_tls_the_greeting_is_encrypted(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    with intake.client() as client:
        client.secure(authority.client_context())
        client.greet()
        assert "STARTTLS" not in offered(client)
        assert client.say("STARTTLS").startswith("502 ")
        assert client.say("QUIT").startswith("221 ")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_accepted(
    listen: Listen, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    intake = listen(**keys(authority))
    with intake.client() as client:
        client.greet()
        client.starttls(context)


def test_old_versions_are_refused_and_counted(listen: Listen, authority: Authority) -> None:
    context = authority.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    intake = listen(**keys(authority))
    with intake.client() as client:
        client.greet()
        client.send("STARTTLS")
        client.reply()
        with pytest.raises((ssl.SSLError, OSError)):
            client.secure(context)
    intake.wait_closed()
    assert outcomes(intake) == ["failed"]


def test_a_refused_client_can_finish_sending_in_tls_too(
    listen: Listen, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it was so fast that we had stopped reading from it."""
    intake = listen(**keys(authority))
    monkeypatch.setattr("smtpproxy.intake.session._LINGER", 2.0)
    with intake.client() as client:
        client.greet()
        client.starttls(authority.client_context())
        client.send(b"NOOP\r\n" * AT_ONCE + b"NOOP\n" + b"x" * 8_000_000)
        assert client.rest()[-1].startswith("521 5.5.2 bare <LF> received;")


def test_input_behind_starttls_is_never_a_command(listen: Listen, authority: Authority) -> None:
    """CVE-2011-0411: injected clear text must not be taken for encrypted commands."""
    intake = listen(**keys(authority))
    with intake.client() as client:
        client.greet()
        client.send("STARTTLS", "EHLO evil.example", "MAIL FROM:<evil@shop.example>")
        assert client.reply().startswith("554 5.5.0 ")
        assert client.rest() == []
    assert outcomes(intake) == []


def test_clear_text_after_starttls_fails_the_handshake(
    listen: Listen, authority: Authority
) -> None:
    intake = listen(**keys(authority))
    with intake.client() as client:
        client.greet()
        assert client.say("STARTTLS").startswith("220 ")
        client.send("EHLO evil.example", "MAIL FROM:<evil@shop.example>")
        assert not any(line.startswith("250") for line in client.rest())
    intake.wait_closed()
    assert outcomes(intake) == ["failed"]


def test_starttls_is_refused_in_a_transaction_and_with_an_argument(
    listen: Listen, authority: Authority
) -> None:
    intake = listen(**keys(authority))
    with intake.client() as client:
        assert client.reply().startswith("220 ")
        assert client.say("STARTTLS") == "503 5.5.1 send EHLO first"
        client.say("EHLO client.example")
        assert client.say("STARTTLS now") == "501 5.5.4 STARTTLS takes no argument"
        client.say("MAIL FROM:<news@shop.example>")
        assert client.say("STARTTLS").startswith("503 5.5.1 not in a transaction")


def test_unencrypted_mail_is_refused_where_tls_is_required(
    listen: Listen, authority: Authority
) -> None:
    intake = listen(require_tls=True, **keys(authority))
    with intake.client() as client:
        client.greet()
        assert client.say("MAIL FROM:<news@shop.example>").startswith("530 5.7.0 ")
        client.starttls(authority.client_context())
        assert client.say("MAIL FROM:<news@shop.example>").startswith("250 ")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_handshake_that_never_comes_times_out(
    listen: Listen, authority: Authority, tls: str
) -> None:
    intake = listen(handshake_timeout="300ms", **keys(authority, tls))
    with intake.client() as client:
        if tls == "starttls":
            client.greet()
            client.say("STARTTLS")
        client.socket.sendall(b"\x16")  # the first octet of a ClientHello
        assert client.rest() == []
    wait_for(lambda: outcomes(intake) == ["timeout"], "the handshake to be given up")
    wait_for(lambda: not intake.door._sessions, "its session to end")


def test_a_client_that_hangs_up_during_the_handshake(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    with intake.client() as client:
        client.socket.sendall(b"\x16\x03\x01")
    wait_for(lambda: outcomes(intake) == ["failed"], "the handshake to fail")
    with intake.client() as client:
        client.secure(authority.client_context())
        client.greet()


def test_a_client_that_hangs_up_inside_tls(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    with intake.client() as client:
        client.secure(authority.client_context())
        client.greet()
        client.send("MAIL FROM:<news@shop.example>")
        client.reply()
    assert intake.wait_closed() == ["eof"]


def test_draining_ends_a_session_inside_tls(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    with intake.client() as client:
        client.secure(authority.client_context())
        client.greet()
        intake.call(intake.door.drain()).result(10)
        assert client.rest() == ["421 4.3.2 the connection ends for a restart or reload; reconnect"]


def test_a_large_message_over_tls(
    listen: Listen, authority: Authority, upstream: FakeUpstream
) -> None:
    intake = listen(streams=["receipts"], default_stream="receipts", **keys(authority))
    body = b"".join(b"%078d\r\n" % number for number in range(40_000))  # 3.2 MB
    with intake.client(timeout=30) as client:
        client.greet()
        client.starttls(authority.client_context())
        client.begin()
        client.send(b"From: a@shop.example\r\n\r\n" + body + b".\r\n")
        assert client.reply().startswith("250 ")
    assert upstream.messages[0].data.endswith(body)


def replace(pair: Pair, by: Pair) -> None:
    """Replace a certificate as a renewal does, with file times that surely differ."""
    by.key.replace(pair.key)
    by.certificate.replace(pair.certificate)


def shown(intake: Intake, authority: Authority) -> str:
    """The fingerprint of the certificate shown to a new connection."""
    with intake.client() as client:
        client.secure(authority.client_context())
        client.greet()
        assert isinstance(client.socket, ssl.SSLSocket)
        certificate = client.socket.getpeercert(binary_form=True)
        assert certificate is not None
        return hashlib.sha256(certificate).hexdigest()


def test_a_new_certificate_is_used_without_a_restart(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    pair = Pair(authority.folder / "server.pem", authority.folder / "server.key")
    old = pair.fingerprint
    with intake.client() as open_before:
        open_before.secure(authority.client_context())
        open_before.greet()
        assert shown(intake, authority) == old
        replace(pair, authority.issue("relay.example", file="next"))
        new = pair.fingerprint
        assert new != old
        wait_for(lambda: shown(intake, authority) == new, "the new certificate")
        assert open_before.say("NOOP").startswith("250 ")
    assert [(e.what, e.error) for e in intake.of(FilesRead)] == [("certificate", None)]


def test_a_broken_certificate_leaves_the_old_one(listen: Listen, authority: Authority) -> None:
    intake = listen(**keys(authority, "implicit"))
    pair = Pair(authority.folder / "server.pem", authority.folder / "server.key")
    old = pair.fingerprint
    authority.issue("relay.example", file="other").certificate.replace(pair.certificate)

    def told() -> bool:
        assert shown(intake, authority) == old
        return bool(intake.of(FilesRead))

    wait_for(told, "the broken pair to be noticed")
    (event,) = intake.of(FilesRead)
    assert "is not the key of" in str(event.error)
    assert intake.door.tls is not None
    assert intake.door.tls.expires() > 0
    assert not intake.door.tls.usable()
    authority.issue("relay.example", file="server")
    wait_for(intake.door.tls.usable, "the pair that fits again")


def test_the_metric_of_a_renewed_certificate_is_that_of_what_expires_first(
    listen: Listen, authority: Authority
) -> None:
    intake = listen(**keys(authority, "implicit"))
    tls = intake.door.tls
    assert tls is not None
    assert round((tls.expires() - time.time()) / 86_400) == 90
    between = Authority(authority.folder, "between", under=authority, days=5)
    pair = between.issue("relay.example", file="next")
    with pair.certificate.open("ab") as chain:
        chain.write(between.path.read_bytes())
    replace(Pair(authority.folder / "server.pem", authority.folder / "server.key"), pair)
    wait_for(lambda: tls.expires() < time.time() + 6 * 86_400, "the earlier end")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_client_certificate_is_a_credential(
    listen: Listen, authority: Authority, upstream: FakeUpstream, tls: str
) -> None:
    def enter(client: Client, pair: Pair | None = None) -> None:
        if tls == "implicit":
            client.secure(authority.client_context(pair))
            client.greet()
        else:
            client.greet()
            client.starttls(authority.client_context(pair))

    shop = authority.issue("shop.example")
    config = {
        "credential": [
            {
                "certificate": shop.fingerprint,
                "streams": ["receipts"],
                "default_stream": "receipts",
                "senders": ["@shop.example"],
            }
        ]
    }
    intake = listen(
        config,
        auth="required",
        **keys(authority, tls, client_ca=str(authority.path)),
    )
    with intake.client() as nobody:
        enter(nobody)
        assert nobody.say("MAIL FROM:<news@shop.example>").startswith("530 5.7.0 auth")
    with intake.client() as client:
        enter(client, shop)
        assert client.say("MAIL FROM:<a@other.example>").startswith("550 5.7.1 ")
        client.begin("stranger@people.example", sender="news@shop.example")
        assert client.say("From: a@shop.example", "", "hello", ".").startswith("250 ")
    assert b"with ESMTPS id" in upstream.messages[0].data
    (decided,) = intake.records.decided
    assert isinstance(decided, Decided)
    assert decided.decision.stream.name == "receipts"
    assert decided.client.login == f"certificate:{shop.fingerprint}"


def test_a_certificate_by_its_subject(listen: Listen, authority: Authority) -> None:
    shop = authority.issue("shop.example")
    config = {"credential": [{"certificate": "CN=shop.example", "senders": ["@shop.example"]}]}
    intake = listen(config, auth="required", **keys(authority, client_ca=str(authority.path)))
    with intake.client() as client:
        client.greet()
        client.starttls(authority.client_context(shop))
        assert client.say("MAIL FROM:<a@shop.example>").startswith("250 ")


def test_a_client_certificate_of_another_authority_fails_the_handshake(
    listen: Listen, authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "else"
    folder.mkdir()
    stranger = Authority(folder).issue("shop.example")
    intake = listen(**keys(authority, client_ca=str(authority.path)))
    with intake.client() as client:
        client.greet()
        assert client.say("STARTTLS").startswith("220 ")
        with contextlib.suppress(ssl.SSLError, OSError):  # in TLS 1.3 the client learns of it late
            client.secure(authority.client_context(stranger))
            client.socket.sendall(b"EHLO x\r\n")
            assert client.socket.recv(100) == b""
    intake.wait_closed()
    assert outcomes(intake) == ["failed"]


def test_unfinished_handshakes_do_not_block_others(listen: Listen, authority: Authority) -> None:
    """Ten never finish, and one does."""
    intake = listen(handshake_timeout="20s", **keys(authority, "implicit"))
    slow = [socket.create_connection(("127.0.0.1", intake.port)) for _ in range(10)]
    try:
        with intake.client() as client:
            client.secure(authority.client_context())
            client.greet()
    finally:
        for each in slow:
            each.close()
    wait_for(lambda: len(outcomes(intake)) == 11, "all handshakes to end")
    assert outcomes(intake).count("ok") == 1
    wait_for(lambda: intake.door._limits.open == 0, "all connections to be counted out")
