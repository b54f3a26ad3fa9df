"""Deliveries to a real HTTPS receiver, and the outcome of each of its behaviours."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.settings import WebhookSettings
from smtpproxy.webhooks import read_secrets
from smtpproxy.webhooks.delivery import Outcome, Poster
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.receiver import Receiver, Say, receiver

NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiver(tmp_path_factory.mktemp("crm")) as running:
        yield running


@pytest.fixture(autouse=True)
def usual(crm: Receiver) -> None:
    crm.answer = lambda delivery: Say()
    crm.deliveries.clear()


@asynccontextmanager
async def poster(crm: Receiver, **changed: object) -> AsyncIterator[Poster]:
    webhook = WebhookSettings("crm", crm.url, crm.secret_file, ca_file=crm.ca_file, timeout=5.0)
    opened = Poster(
        replace(webhook, **changed),  # type: ignore[arg-type]
        read_secrets(crm.secret_file),
        now=lambda: NOW,
        user_agent="smtpproxy/0",
    )
    try:
        yield opened
    finally:
        await opened.close()


async def test_a_delivery_is_signed_and_accepted(crm: Receiver) -> None:
    async with poster(crm) as crm_poster:
        assert await crm_poster.post("msg_1", b'{"a": 1}') == Outcome("delivered", "HTTP 204")
    (delivery,) = crm.deliveries
    assert (delivery.id, delivery.body) == ("msg_1", b'{"a": 1}')
    assert delivery.timestamp == int(NOW.timestamp())
    assert delivery.signed


async def test_many_webhooks_load_trusted_certificates_once(
    crm: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str | None] = []
    make = ssl.create_default_context

    def counting(*, cafile: str | None) -> ssl.SSLContext:
        read.append(cafile)
        return make(cafile=cafile)

    monkeypatch.setattr(ssl, "create_default_context", counting)
    own = tmp_path / "ca.pem"
    assert crm.ca_file is not None
    own.write_bytes(crm.ca_file.read_bytes())
    async with poster(crm, ca_file=own) as one, poster(crm, ca_file=own) as other:
        for each in (one, other):
            assert await each.post("msg_1", b"{}") == Outcome("delivered", "HTTP 204")
    assert read == [str(own)]


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        (Say(200), "delivered"),
        (Say(300), "redirected"),
        (Say(302, (("location", "/elsewhere"),)), "redirected"),
        (Say(307, (("location", "/elsewhere"),)), "redirected"),
        (Say(400), "refused"),
        (Say(404), "refused"),
        (Say(410), "gone"),
        (Say(500), "failed"),
        (Say(503), "failed"),
    ],
)
async def test_the_outcome_of_each_answer(crm: Receiver, say: Say, kind: str) -> None:
    crm.answer = lambda delivery: say
    async with poster(crm) as crm_poster:
        assert (await crm_poster.post("msg_1", b"{}")).kind == kind
    assert [delivery.path for delivery in crm.deliveries] == ["/hook"]


@pytest.mark.parametrize("say", [Say(hold=True), Say(200, drip=True)])
async def test_a_receiver_that_hangs_or_drips_times_out(crm: Receiver, say: Say) -> None:
    crm.answer = lambda delivery: say
    started = asyncio.get_running_loop().time()
    async with poster(crm, timeout=0.4) as crm_poster:
        assert (await crm_poster.post("msg_1", b"{}")).kind == "timeout"
    assert asyncio.get_running_loop().time() - started < 3
    crm.release.set()
    crm.release.clear()


async def test_retry_after_in_seconds_is_read(crm: Receiver) -> None:
    for written, read in (
        ("120", timedelta(minutes=2)),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("\xb2", None),
    ):
        crm.answer = lambda delivery, text=written: Say(429, (("retry-after", text),))  # type: ignore[misc]
        async with poster(crm) as crm_poster:
            assert (await crm_poster.post("msg_1", b"{}")).retry_after == read


async def test_a_certificate_of_another_host_is_rejected(crm: Receiver) -> None:
    async with poster(crm, ca_file=None) as crm_poster:
        outcome = await crm_poster.post("msg_1", b"{}")
    assert outcome.kind == "unreachable"
    assert "certificate" in outcome.text.lower()
    async with poster(crm, url=crm.url.replace(LOOPBACK, "127.1")) as crm_poster:
        assert (await crm_poster.post("msg_1", b"{}")).kind == "unreachable"
    assert crm.deliveries == []


async def test_a_receiver_that_is_down(crm: Receiver) -> None:
    async with poster(crm, url=f"https://{LOOPBACK}:{free_port()}/hook") as crm_poster:
        assert (await crm_poster.post("msg_1", b"{}")).kind == "unreachable"


async def test_the_environment_is_ignored(
    crm: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variable: Callable[[str, str], None] = monkeypatch.setenv
    set_variable("HTTPS_PROXY", f"http://{LOOPBACK}:{free_port()}")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {LOOPBACK} login a password b\n")
    set_variable("NETRC", str(netrc))
    async with poster(crm) as crm_poster:
        assert (await crm_poster.post("msg_1", b"{}")).kind == "delivered"
