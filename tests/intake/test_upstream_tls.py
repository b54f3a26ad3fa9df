"""TLS to the upstream: mail goes encrypted or not at all."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from tests.intake.listening import Intake
from tests.kit.certificates import Authority
from tests.kit.ports import free_port


class Mailbox:
    """An independent MTA with TLS."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        assert server.transport.get_extra_info("sslcontext") is not None, "unencrypted"
        self.contents.append(envelope.content)
        return "250 2.0.0 taken"


@pytest.fixture(params=[False, True], ids=["complete", "bare"])
def authority(request: pytest.FixtureRequest, tmp_path: Path) -> Authority:
    return Authority(tmp_path, bare=request.param)


@pytest.fixture(params=["starttls", "implicit"])
def upstream(
    request: pytest.FixtureRequest, authority: Authority
) -> Iterator[tuple[str, int, Mailbox]]:
    pair = authority.issue("mta.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    mailbox, port = Mailbox(), free_port()
    how = {"tls_context": context} if request.param == "starttls" else {"ssl_context": context}
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **how)
    controller.start()
    yield request.param, port, mailbox
    controller.stop()


def send(root: Path, port: int, **keys: Any) -> tuple[str, Intake]:
    config = {"upstream": {"address": f"127.0.0.1:{port}", **keys}}
    streams = {"streams": ["receipts"], "default_stream": "receipts"}
    root.mkdir(exist_ok=True)
    with Intake(root, f"127.0.0.1:{port}", config, streams) as intake:
        with intake.client() as client:
            client.greet()
            client.say("MAIL FROM:<news@shop.example>")
            reply = client.say("RCPT TO:<stranger@people.example>")
            if reply.startswith("250 "):
                client.say("DATA")
                reply = client.say("From: a@shop.example", "", "hello", ".")
        assert intake.unexpected == []
    return reply, intake


def test_mail_passes_over_tls(
    tmp_path: Path, authority: Authority, upstream: tuple[str, int, Mailbox]
) -> None:
    tls, port, mailbox = upstream
    for keys in ({}, {"tls_name": "mta.example"}):
        reply, _ = send(tmp_path / "r", port, tls=tls, ca_file=str(authority.path), **keys)
        assert reply.startswith("250 ")
    assert len(mailbox.contents) == 2


def test_a_certificate_for_another_name_or_from_another_root_is_rejected(
    tmp_path: Path, authority: Authority, upstream: tuple[str, int, Mailbox]
) -> None:
    tls, port, mailbox = upstream
    other = Authority(tmp_path, "other")
    for keys in (
        {"ca_file": str(other.path)},
        {"ca_file": str(authority.path), "tls_name": "other.example"},
    ):
        reply, _ = send(tmp_path / "r", port, tls=tls, **keys)
        assert reply.startswith("451 4.7.5 ")
    assert mailbox.contents == []


def test_an_upstream_without_starttls_gets_nothing(tmp_path: Path, authority: Authority) -> None:
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        reply, _ = send(tmp_path / "r", port, tls="starttls", ca_file=str(authority.path))
    finally:
        controller.stop()
    assert reply.startswith("451 4.7.5 ")
