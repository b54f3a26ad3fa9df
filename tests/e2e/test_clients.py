"""Mail programs and libraries as clients: each delivers, and each sees why it may not."""

import asyncio
import re
import smtplib
from collections.abc import Callable
from pathlib import Path

import aiosmtplib
import pytest

from tests.kit.messages import marketing, message
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK
from tests.kit.processes import run
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

Client = Callable[[int, bytes, str, Path], tuple[bool, str]]
"""Sends (port, mail, recipient, folder for files); returns whether it went and what was said."""

SENDER = "news@shop.example"


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    listeners = [
        listener("apps", "offers", "receipts", default="offers"),
        listener("shop", "offers", default="offers"),
    ]
    return filled(mta.address, {"listener": listeners})


def swaks(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    done = run(
        program("swaks"), "--server", LOOPBACK, "--port", str(port), "--ehlo", "client.example",
        "--from", SENDER, "--to", to, "--data", "-",
        stdin=mail.replace(b"\r\n", b"\n"),
    )  # fmt: skip
    return done.returncode == 0, done.stdout


def curl(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (folder / "mail").write_bytes(mail)
    done = run(
        program("curl"), "--silent", "--show-error", "--verbose", "--noproxy", "*",
        "--mail-from", SENDER, "--mail-rcpt", to, "--upload-file", str(folder / "mail"),
        f"smtp://{LOOPBACK}:{port}/client.example",
    )  # fmt: skip
    return done.returncode == 0, done.stderr


def msmtp(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    done = run(
        program("msmtp"), "--file=/dev/null", f"--host={LOOPBACK}", f"--port={port}",
        "--domain=client.example", f"--from={SENDER}", "--auth=off", "--tls=off", "--debug",
        "--", to,
        stdin=mail.replace(b"\r\n", b"\n"),
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def standard_library(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    with smtplib.SMTP(LOOPBACK, port, "client.example", timeout=30) as client:
        try:
            client.sendmail(SENDER, [to], mail)
        except smtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients[to]
            return False, f"{code} {text.decode()}"
        except smtplib.SMTPDataError as error:
            return False, f"{error.smtp_code} {error.smtp_error!r}"
        # sendmail() keeps a good reply to itself: ask for one by hand.
        client.mail(SENDER)
        client.rcpt(to)
        code, text = client.data(mail)
        return True, f"{code} {text.decode()}"


def library_for_asyncio(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    async def send() -> tuple[bool, str]:
        async with aiosmtplib.SMTP(
            hostname=LOOPBACK,
            port=port,
            local_hostname="client.example",
            use_tls=False,
            start_tls=False,
        ) as client:
            try:
                _, text = await client.sendmail(SENDER, [to], mail)
            except aiosmtplib.SMTPRecipientsRefused as error:
                (refused,) = error.recipients
                return False, f"{refused.code} {refused.message}"
            except aiosmtplib.SMTPResponseException as error:
                return False, f"{error.code} {error.message}"
            return True, f"250 {text}"

    return asyncio.run(send())


CLIENTS = [
    pytest.param(swaks, marks=needs("swaks")),
    pytest.param(curl, marks=needs("curl")),
    pytest.param(msmtp, marks=needs("msmtp")),
    standard_library,
    library_for_asyncio,
]
every_client = pytest.mark.parametrize("client", CLIENTS)


@every_client
def test_delivers(client: Client, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path) -> None:
    before = len(mta.messages)
    mail = message(stream="receipts", body="Caf\xe9\r\n.dot\r\n\r\nend\r\n")
    went, said = client(relay.port("apps"), mail, "jeanne@people.example", tmp_path)
    assert went, said
    assert "250 2.0.0 queued as FAKE" in said
    for sent in mta.messages[before:]:
        assert sent.recipients == ("jeanne@people.example",)
        assert sent.sender == SENDER
        assert (
            sent.data.partition(b"\r\n\r\n")[2].rstrip() == mail.partition(b"\r\n\r\n")[2].rstrip()
        )
    assert len(mta.messages) > before


@every_client
@pytest.mark.parametrize("via", ["shop", "apps"], ids=["at-rcpt", "at-data"])
def test_sees_why_it_may_not(
    client: Client, via: str, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    before = len(mta.messages)
    went, said = client(relay.port(via), marketing(), address("withdrawn"), tmp_path)
    assert not went
    assert re.search(
        r"550 .*5\.7\.1 <withdrawn@people\.example> refused: consent_withdrawn "
        r"\(stream offers\) id=[0-9A-Z]{26}",
        said,
    )
    assert len(mta.messages) == before


@every_client
def test_sees_what_its_message_lacks(
    client: Client, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    before = len(mta.messages)
    mail = marketing(one_click=None)
    went, said = client(relay.port("shop"), mail, address("consent"), tmp_path)
    assert not went
    assert re.search(r"550 .*5\.7\.0 refused: one_click_missing \(stream offers\) id=", said)
    assert len(mta.messages) == before
