"""Mail programs and libraries as clients, with the lines of docs/deploy/clients.md.

Each delivers, and each sees why it is refused.
"""

import asyncio
import contextlib
import email
import email.policy
import io
import json
import re
import shlex
import smtplib
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from tests.kit.messages import marketing, message
from tests.kit.pages import section
from tests.kit.parts import SEARCH_PATH, needs
from tests.kit.ports import LOOPBACK
from tests.kit.processes import run
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

Client = Callable[[int, bytes, str, Path], tuple[bool, str]]
"""Sends (port, mail, recipient, folder for files); returns success and the client's message."""

PAGE = "deploy/clients.md"
SENDER = "news@shop.example"


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    listeners = [
        listener("apps", "offers", "receipts", default="offers"),
        listener("shop", "offers", default="offers"),
        listener("late", "late", default="late"),
    ]
    streams = [*STREAMS, STREAMS[0] | {"name": "late"} | late_refusals()]
    return filled(mta.address, {"listener": listeners, "stream": streams})


def late_refusals() -> dict[str, Any]:
    """What the page says to apps that stall after a 550 at RCPT."""
    (block,) = section(PAGE, "What every app should know")
    return tomllib.loads(block)


def lines(heading: str, port: int, to: str = "jeanne@people.example") -> list[str]:
    """The blocks of a client's section, for this port and recipient."""
    blocks = section(PAGE, heading)
    return [b.replace("2525", str(port)).replace("jeanne@people.example", to) for b in blocks]


def shell(line: str, folder: Path, mail: bytes, **env: str) -> tuple[bool, str]:
    """Run a line in a folder with its message as a file with local line ends."""
    (folder / "message.eml").write_bytes(mail.replace(b"\r\n", b"\n"))
    (folder / "body.txt").write_bytes(mail.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n"))
    environment = {"HOME": str(folder), "PATH": SEARCH_PATH, "no_proxy": "*", **env}
    done = run("sh", "-c", line, cwd=folder, env=environment)
    return done.returncode == 0, done.stdout + done.stderr


def fields(mail: bytes) -> dict[str, str]:
    """The fields that an app sets; its library writes the others."""
    message = email.message_from_bytes(mail)
    own = ("from", "to", "subject", "date", "message-id")
    return {name: value for name, value in message.items() if name.lower() not in own}


def swaks(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (line,) = lines("swaks", port, to)
    return shell(line, folder, mail)


def curl(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (line,) = lines("curl", port, to)
    return shell(line, folder, mail)


def msmtp(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    config, line = lines("msmtp", port, to)
    (folder / ".msmtprc").write_text(config)
    (folder / ".msmtprc").chmod(0o600)
    return shell(line, folder, mail)


def s_nail(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    config, line = lines("s-nail", port, to)
    (folder / ".mailrc").write_text(config)
    told = "".join(f" -C {shlex.quote(f'{name}: {value}')}" for name, value in fields(mail).items())
    line = line.replace(' -C "X-Mail-Stream: receipts"', told)
    return shell(line, folder, mail, MAILRC=str(folder / ".mailrc"), LC_ALL="C.UTF-8")


def nodemailer(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (created,) = lines("Nodemailer", port)
    (folder / "send.js").write_text(
        f"""const nodemailer = require("nodemailer");
{created}
const raw = require("fs").readFileSync("message.eml");
transport.sendMail({{ envelope: {{ from: "{SENDER}", to: ["{to}"] }}, raw }}).then(
  (info) => {{ console.log(info.response); transport.close(); }},
  (error) => {{ console.log(error.responseCode, error.response); process.exit(1); }},
);
"""
    )
    return shell("node send.js", folder, mail, NODE_PATH="/usr/share/nodejs")


def phpmailer(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (settings,) = lines("PHPMailer", port)
    headers = "".join(
        f"$mail->addCustomHeader({json.dumps(name)}, {json.dumps(value)});\n"
        for name, value in fields(mail).items()
    )
    (folder / "send.php").write_text(
        f"""<?php
require '/usr/share/php/libphp-phpmailer/autoload.php';
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
{settings}
$mail->SMTPDebug = 2;
$mail->CharSet = 'UTF-8';
$mail->Encoding = '8bit';
$mail->setFrom('{SENDER}', 'Shop');
$mail->addAddress('{to}');
$mail->Subject = 'New shoes';
$mail->Body = file_get_contents('body.txt');
{headers}
$mail->send();
"""
    )
    return shell("php send.php", folder, mail)


def django(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (settings,) = lines("Django", port)
    (folder / "settings.py").write_text(settings)
    (folder / "send.py").write_text(
        f"""import smtplib
from django.core.mail import EmailMessage, get_connection
smtplib.SMTP.debuglevel = 1
body = open("body.txt", newline="").read()
EmailMessage("New shoes", body, "{SENDER}", ["{to}"], headers={fields(mail)!r}).send()
"""
    )
    return shell(f"{sys.executable} send.py", folder, mail, DJANGO_SETTINGS_MODULE="settings")


def standard_library(port: int, mail: bytes, to: str, folder: Path) -> tuple[bool, str]:
    (block,) = lines("Python: smtplib", port, to)
    message = email.message_from_bytes(mail, policy=email.policy.SMTP)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
            patch.setattr(smtplib.SMTP, "debuglevel", 1)
            exec(block, {"smtplib": smtplib, "message": message})
    except smtplib.SMTPException:
        return False, said.getvalue()
    return True, said.getvalue()


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
    pytest.param(s_nail, marks=needs("s-nail")),
    pytest.param(nodemailer, marks=needs("nodemailer")),
    pytest.param(phpmailer, marks=needs("phpmailer")),
    django,
    standard_library,
    library_for_asyncio,
]
every_client = pytest.mark.parametrize("client", CLIENTS)


@every_client
def test_each_client_delivers(
    client: Client, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
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
@pytest.mark.parametrize("via", ["shop", "apps", "late"], ids=["at-rcpt", "at-data", "refuse-at"])
def test_each_client_sees_why_it_is_refused(
    client: Client, via: str, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    before = len(mta.messages)
    went, said = client(relay.port(via), marketing(), address("withdrawn"), tmp_path)
    assert not went
    assert re.search(
        r"550 .*5\.7\.1 <withdrawn@people\.example> refused: consent_withdrawn "
        r"\(stream (offers|late)\) id=[0-9A-Z]{26}",
        said,
    )
    assert len(mta.messages) == before


@every_client
def test_each_client_sees_what_its_message_lacks(
    client: Client, relay: RelayProcess, mta: FakeUpstream, tmp_path: Path
) -> None:
    before = len(mta.messages)
    mail = marketing(one_click=None)
    went, said = client(relay.port("shop"), mail, address("consent"), tmp_path)
    assert not went
    assert re.search(r"550 .*5\.7\.0 refused: one_click_missing \(stream offers\) id=", said)
    assert len(mta.messages) == before
