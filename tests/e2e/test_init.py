"""The files of `smtpproxy init` in use: the relay behind and in front of a real Postfix."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.config import load
from smtpproxy.doctor.finding import Check
from tests.kit.dns import NameServer
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import Running, run
from tests.kit.relay import COMMAND, REPOSITORY

pytestmark = needs("postfix", "swaks")

BRAND = (
    "--brand", "shop",
    "--legal-name", "Shop SA",
    "--postal-address", "1 rue de l'Exemple, 75001 Paris",
    "--from-domain", "shop.example",
    "--help-address", "help@shop.example",
    "--product", "shoes",
)  # fmt: skip
RECORDS = (
    "relay.shop.example. A 192.0.2.1",
    "shop.example. MX 10 mx.shop.example.",
    "mx.shop.example. A 192.0.2.2",
)


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    with NameServer(*RECORDS) as server:
        yield server


class Site:
    """A Postfix, a relay set up by `init`, and an app that connects to `port`."""

    def __init__(self, root: Path, route: str, names: NameServer, stack: ExitStack) -> None:
        self.config = root / "etc" / "smtpproxy.toml"
        self.root, self.listen, back = root, free_port(), free_port()
        self.mta = PostfixInstance()  # delivers everybody's mail
        stack.callback(self.mta.remove)
        self.postfix = self.mta  # the one that must know of smtpproxy
        self.port = self.mta.port
        upstream = f"{LOOPBACK}:{back}"
        if route == "apps":
            self.port, upstream = self.listen, self.mta.address
        if route == "policy":
            upstream = self.mta.address
        if route == "relayhost":
            self.postfix = PostfixInstance(relayhost=self.mta.address)
            stack.callback(self.postfix.remove)
            self.port, upstream = self.postfix.port, self.mta.address
        self.env = {"MAIL_CONFIG": str(self.postfix.config)}
        asked = () if route == "relayhost" else ("--upstream", upstream)  # init finds it by itself
        streams = ("--marketing", "offers") if route == "policy" else ()  # which sees no header
        code, said = self.command(
            "init", "--json", *BRAND, *asked, "--yes",
            "--hostname", "relay.shop.example", "--route", route,
            "--listen", f"{LOOPBACK}:{self.listen}", "--web", f"{LOOPBACK}:{free_port()}",
            "--state-dir", str(root / "state"), "--nameserver", names.address, *streams,
        )  # fmt: skip
        assert code == 0, said
        self.said: Any = json.loads(said)
        assert str(load(self.config).upstream.address) == upstream
        self._lead()
        self.relay = Running(
            [*COMMAND, "serve", "--config", str(self.config)],
            output=root / "relay.log",
            cwd=REPOSITORY,
        )
        stack.callback(self.relay.kill)
        wait_for(lambda: '"event": "ready"' in self.relay.output, "the relay", timeout=60)
        self.mta.start()
        if self.postfix is not self.mta:
            self.postfix.start()

    def _lead(self) -> None:
        """Run the commands of step two with the folder and port of this Postfix."""
        for command in self.said["next"][1]["commands"]:
            here = command.replace("/etc/postfix", str(self.postfix.config))
            here = here.replace(" && postfix reload", "")  # it is not running yet
            here = here.replace("smtp/inet", f"{self.postfix.address}/inet")
            done = run("sh", "-c", here, env=self.env, cwd=self.root)
            assert done.returncode == 0, (here, done.stderr)
            assert done.stderr == ""
        master = self.postfix.config / "master.cf"
        own = master.read_text().replace("\nsmtp inet ", f"\n{self.postfix.address} inet ")
        master.write_text(own)

    def send(self, recipient: str, stream: str) -> str:
        done = run(
            program("swaks"), "--server", f"{LOOPBACK}:{self.port}", "--from", "news@shop.example",
            "--to", recipient, "--header", f"X-Mail-Stream: {stream}", "--timeout", "60",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + self.relay.output[-2000:]
        return done.stdout

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command in this process, to save the start."""
        asked = [*arguments, "--config", str(self.config)]
        done = CliRunner().invoke(main, asked, env=self.env)
        return done.exit_code, done.output


@pytest.mark.parametrize(
    "route", ["apps", "relayhost", "milter", "before-queue", "after-queue", "policy"]
)
def test_mail_passes_on_every_route(tmp_path: Path, names: NameServer, route: str) -> None:
    with ExitStack() as stack:
        site = Site(tmp_path, route, names, stack)
        site.send("jeanne@people.example", "offers")
        site.send("jeanne@people.example", "receipts")
        for mail in site.mta.delivered(2):
            assert mail.recipient == "jeanne@people.example"
            assert route == "policy" or b"X-Mail-Stream" not in mail.message
        report = json.loads(site.command("report", "--json")[1])
        seen = {stream["stream"]: stream["recipients"] for stream in report["streams"]}
        expected = {"offers": 2} if route == "policy" else {"offers": 1, "receipts": 1}
        assert {name: seen[name] for name in expected} == expected
        code, said = site.command("check")
        assert (code, "good" in said) == (0, True), said


def test_doctor_finds_the_configured_setup_and_the_keys_sign(
    tmp_path: Path, names: NameServer
) -> None:
    with ExitStack() as stack:
        site = Site(tmp_path, "apps", names, stack)
        only = [x for c in (Check.UPSTREAM, Check.KEYS, Check.MX) for x in ("--only", str(c))]
        code, said = site.command("doctor", *only)
        assert code == 0, said
        assert "fail" not in said
        keys_sign(site, tmp_path / "signed.eml")


def keys_sign(site: Site, message: Path) -> None:
    """With [[dkim]] uncommented and the records published."""
    text = site.config.read_text()
    signing = re.search(r"^# \[\[dkim\]\]\n(# .*\n)+", text, re.MULTILINE)
    assert signing
    taken_off = re.sub(r"^# ", "", signing[0], flags=re.MULTILINE)
    site.config.write_text(text.replace(signing[0], taken_off))
    code, said = site.command("reload")
    assert code == 0, said
    site.send("jeanne@people.example", "offers")
    (mail,) = site.mta.delivered(1)
    message.write_bytes(mail.message)
    zone = site.config.parent / "install" / "dns.zone"
    code, said = site.command("dkim", "verify", str(message), "--record", str(zone))
    assert (code, "shop.example (selector s20" in said, "valid" in said) == (0, True, True)
