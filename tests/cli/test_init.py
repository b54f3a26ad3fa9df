"""`smtpproxy init`: what it asks, what it proposes, and what it writes."""

import json
import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smtpproxy.cli import main
from smtpproxy.config import load
from smtpproxy.policy.model import Mode
from tests.kit.dns import NameServer
from tests.kit.parts import needs
from tests.kit.processes import run
from tests.kit.relay import COMMAND, REPOSITORY

ANSWERS = {
    "--hostname": "relay.shop.example",
    "--upstream": "127.0.0.1:10025",
    "--brand": "shop",
    "--legal-name": 'Shop "SA" \\ fils',
    "--postal-address": "1 rue de l'Exemple, 75001 Paris",
    "--from-domain": "shop.example",
}


@pytest.fixture(autouse=True)
def silent_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from waiting for this machine's DNS or asking its Postfix."""
    monkeypatch.setattr("smtpproxy.cli.init.PATIENCE", 0.2)
    monkeypatch.setenv("MAIL_CONFIG", "/nonexistent")


def arguments(root: Path, *more: str, **changed: str | None) -> list[str]:
    changes = {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    given: Mapping[str, str | None] = {**ANSWERS, **changes}
    pairs = [part for name, value in given.items() if value is not None for part in (name, value)]
    config = ["--config", str(root / "etc" / "smtpproxy.toml")]
    return ["init", *config, "--state-dir", str(root / "state"), *pairs, *more]


def init(root: Path, *more: str, code: int = 0, **changed: str | None) -> Result:
    result = CliRunner().invoke(main, arguments(root, *more, **changed))
    assert result.exit_code == code, result.output
    return result


def test_what_it_writes_passes_check(tmp_path: Path) -> None:
    result = init(tmp_path, "--yes")
    config = tmp_path / "etc" / "smtpproxy.toml"
    settings = load(config)
    assert settings.policy.mode is Mode.OBSERVE
    assert {stream.mode for stream in settings.declared_streams} == {None}
    assert settings.brands["shop"].legal_name == ANSWERS["--legal-name"]
    assert settings.streams["offers"].purpose == "offers"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    for number in (1, 2, 3):
        assert f"\n{number}. " in result.stdout
    checked = CliRunner().invoke(main, ["check", "--config", str(config)])
    assert checked.exit_code == 0, checked.output


def test_everything_missing_is_reported_at_once(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", "--config", str(tmp_path / "smtpproxy.toml")])
    assert result.exit_code == 2
    for option in ("--hostname", "--brand", "--legal-name", "--postal-address", "--from-domain"):
        assert option in result.stderr
    assert "--rulebook (fr?)" in result.stderr
    assert "--yes" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_yes_does_not_invent_unknown_answers(tmp_path: Path) -> None:
    said = init(tmp_path, "--yes", code=2, legal_name=None).stderr
    assert "missing: --legal-name; give this" in said.replace("these options", "this")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"hostname": "a b"}, '--hostname: "a b" is not a host name such as "relay.example.com"'),
        ({"upstream": "mx"}, '--upstream: "mx" is not "host:port"'),
        ({"upstream": "127.0.0.1:99999"}, "--upstream: "),
        ({"listen": "127.0.0.1:10025"}, "is where the MTA behind smtpproxy listens"),
        ({"brand": "My Shop"}, "--brand: "),
        ({"legal_name": "Shop\nSA"}, "--legal-name: must be text on one line"),
        ({"from_domain": "@shop.example"}, 'write only the domain, "shop.example"'),
        ({"help_address": "help"}, "--help-address: "),
        ({"rulebook": "xx"}, '--rulebook: "xx" is not a rulebook'),
        ({"marketing": "Big Offers"}, "--marketing: "),
        ({"public_url": "http://shop.example"}, "RFC 8058 3.1 requires https"),
        ({"selector": "a_b"}, '--selector: "a_b" is not a selector'),
        ({"state_dir": "here"}, "--state-dir: "),
        ({"state_dir": "/dev/null"}, "is not a folder"),
        ({"nameserver": "ns"}, "--nameserver: "),
        ({"route": "milter", "public_url": "https://shop.example"}, "--public-url: with --route"),
        ({"route": "milter", "listen": "unix:/run/x"}, "write host:port"),
        ({"marketing": "offers", "purpose": "other=x"}, "--purpose: "),
        ({"transactional": "bills", "purpose": "offers"}, "there is no stream for it"),
    ],
)
def test_answers_are_validated_like_settings(
    tmp_path: Path, changed: dict[str, str], says: str
) -> None:
    result = init(tmp_path, "--yes", code=2, **changed)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_contradictory_answers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    more = ("--brand", "bags", "--legal-name", "bags=Bags SA", "--from-domain", "bags=shop.example")
    changed = {
        "legal_name": "shop=Shop",
        "postal_address": "shop=1 rue X, Paris",
        "from_domain": "shop=shop.example",
    }
    more += ("--postal-address", "bags=2 rue X, Paris")
    result = init(tmp_path, "--yes", *more, code=2, **changed)
    assert 'belongs to brand "shop": a domain belongs to one brand' in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_several_brands_have_their_own_answers(tmp_path: Path) -> None:
    changed = {
        "legal_name": "shop=Shop",
        "postal_address": "shop=1 rue X, Paris",
        "from_domain": "shop=shop.example",
    }
    more = (
        "--brand", "bags", "--legal-name", "bags=Bags = SA", "--postal-address", "bags=2 rue X",
        "--from-domain", "bags=bags.example", "--product", "bags-offers=leather bags",
        "--purpose", "bags-offers=bags",
    )  # fmt: skip
    init(tmp_path, "--yes", *more, **changed)
    settings = load(tmp_path / "etc" / "smtpproxy.toml")
    assert settings.brands["bags"].legal_name == "Bags = SA"
    stream = settings.streams["bags-offers"]
    assert (stream.brand, stream.purpose, stream.products) == ("bags", "bags", {"leather bags"})
    assert settings.streams["shop-receipts"].brand == "shop"
    said = init(tmp_path / "b", "--yes", *more, code=2, legal_name="Shop").stderr
    assert '"Shop" names nothing known; write shop=…, bags=…' in said
    said = init(tmp_path / "c", "--yes", code=2, legal_name="shpo=Shop SA").stderr
    assert '"shpo=Shop SA" names nothing known; write shop=…' in said


def test_the_country_of_the_domain_decides_rulebook_and_imprint(tmp_path: Path) -> None:
    init(tmp_path, "--yes", from_domain="shop.de")
    settings = load(tmp_path / "etc" / "smtpproxy.toml")
    assert settings.policy.rulebook == "de"
    assert settings.streams["offers"].imprint == (ANSWERS["--postal-address"],)


def test_with_a_public_url_the_relay_makes_its_own_links(tmp_path: Path) -> None:
    init(tmp_path, "--yes", public_url="https://stop.shop.example")
    settings = load(tmp_path / "etc" / "smtpproxy.toml")
    assert settings.streams["offers"].unsubscribe_scope == "purpose:offers"
    assert settings.policy.help_url == "https://stop.shop.example/why"


@pytest.mark.parametrize("name", ["smtpproxy.toml", "install/smtpproxy.conf", "install/dns.zone"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    there = tmp_path / "etc" / name
    there.parent.mkdir(parents=True)
    if kind == "file":
        there.write_text("mine")
    else:
        there.symlink_to(tmp_path / "nowhere")
    result = init(tmp_path, "--yes", code=1)
    assert f"{there} already exists: nothing was written" in result.stderr
    assert [path for path in (tmp_path / "etc").rglob("*") if not path.is_dir()] == [there]
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "state").exists()
    if kind == "file":
        assert there.read_text() == "mine"


def test_every_file_that_would_be_overwritten_is_named(tmp_path: Path) -> None:
    there = [tmp_path / "etc" / "install" / name for name in ("smtpproxy.conf", "dns.zone")]
    there[0].parent.mkdir(parents=True)
    for path in there:
        path.touch()
    both = ", ".join(map(str, there))
    assert f"{both} already exist: nothing was written" in init(tmp_path, "--yes", code=1).stderr


def test_json(tmp_path: Path) -> None:
    found: Any = json.loads(init(tmp_path, "--yes", "--json").stdout)
    assert found["files"][0] == str(tmp_path / "etc" / "smtpproxy.toml")
    assert all(Path(name).exists() for name in found["files"])
    assert found["mode"] == "observe"
    assert len(found["next"]) == 3


def test_keys_are_readable_by_their_owner_only_and_not_yet_in_use(tmp_path: Path) -> None:
    init(tmp_path, "--yes", selector="s1")
    key = tmp_path / "etc" / "s1.shop.example.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in key.read_text()
    zone = (tmp_path / "etc" / "install" / "dns.zone").read_text()
    assert zone.startswith("s1._domainkey.shop.example. IN TXT ")
    assert load(tmp_path / "etc" / "smtpproxy.toml").dkim == ()
    assert "PRIVATE KEY" not in (tmp_path / "etc" / "smtpproxy.toml").read_text()


def test_keys_can_be_declined(tmp_path: Path) -> None:
    init(tmp_path, "--yes", selector="-")
    assert not [*tmp_path.rglob("*.pem")]


@needs("systemd-analyze")
def test_systemd_accepts_the_drop_in(tmp_path: Path) -> None:
    root = tmp_path / 'a "b" 50%'
    init(root, "--yes", listen="127.0.0.1:587")
    unit = tmp_path / "smtpproxy.service"
    unit.write_text((REPOSITORY / "systemd" / "smtpproxy.service").read_text())
    folder = tmp_path / "smtpproxy.service.d"
    folder.mkdir()
    drop_in = (root / "etc" / "install" / "smtpproxy.conf").read_text()
    (folder / "smtpproxy.conf").write_text(drop_in)
    assert "CAP_NET_BIND_SERVICE" in drop_in
    for key in ("ReadWritePaths=", "RequiresMountsFor="):
        assert drop_in.count(key) == 1, "for a state_dir that is not the unit's"
    done = run("systemd-analyze", "verify", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_proposals_come_from_postfix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postconf = tmp_path / "bin" / "postconf"
    postconf.parent.mkdir()
    postconf.write_text(
        "#!/bin/sh\n"
        "echo 'myhostname = mx.shop.example'\n"
        "echo 'relayhost = [smart.shop.example]:587'\n"
        "echo 'myorigin = shop.example'\n"
        "echo 'content_filter = smtp:[127.0.0.1]:9'\n"
    )
    postconf.chmod(0o755)
    monkeypatch.setenv("PATH", f"{postconf.parent}:{os.environ['PATH']}")
    result = init(tmp_path, "--yes", hostname=None, upstream=None)
    settings = load(tmp_path / "etc" / "smtpproxy.toml")
    assert settings.server.hostname == "mx.shop.example"
    assert str(settings.upstream.address) == "smart.shop.example:587"
    lines = (tmp_path / "etc" / "install" / "main.cf").read_text().splitlines()
    assert f"relayhost = [127.0.0.1]:{settings.listeners[0].address.port}" in lines  # type: ignore[union-attr]
    assert "replaces relayhost = [smart.shop.example]:587" in result.stdout
    result = init(tmp_path / "other", "--yes", route="after-queue", upstream=None)
    assert "replaces content_filter = smtp:[127.0.0.1]:9" in result.stdout


def test_proposals_come_from_the_dns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpproxy.cli.init.PATIENCE", 5.0)
    records = (
        "shop.example. MX 10 mx.shop.example.",
        "relay.shop.example. A 93.184.216.34",
        "relay.shop.example. A 10.0.0.1",
        "relay.shop.example. AAAA 2606:2800:220:1::1",
    )
    with NameServer(*records) as names:
        more = {"nameserver": names.address, "public_url": "https://links.shop.example"}
        result = init(tmp_path, "--yes", from_domain=None, brand=None, **more)
    assert "note: links.shop.example: the host of the pages is not in the DNS" in result.stdout
    settings = load(tmp_path / "etc" / "smtpproxy.toml")
    assert settings.brands["shop"].from_domains == {"shop.example"}
    assert settings.doctor.sending_addresses == ("93.184.216.34", "2606:2800:220:1::1")


def talk(root: Path, *answers: str) -> tuple[int, str]:
    """Run it at a terminal with all answers typed ahead; return its exit code and the screen."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "init", "--config", str(root / "smtpproxy.toml")]
    command += ["--state-dir", str(root / "state")]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY,
        env={**os.environ, "MAIL_CONFIG": "/nonexistent"}, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        typed = "".join(f"{answer}\n" for answer in answers)
        os.write(ours, f"{typed}\x04\x04".encode())  # end of input
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # the process has closed its end of the terminal
            pass
        os.close(ours)
        return process.wait(60), seen.decode()


def test_the_prompt_after_leaving_is_on_a_new_line(tmp_path: Path) -> None:
    code, seen = talk(tmp_path)
    assert (code, seen[-2:]) == (130, "\r\n")


def test_a_person_is_asked_until_the_answer_is_valid(tmp_path: Path) -> None:
    code, seen = talk(
        tmp_path,
        "not a name", "relay.shop.example", "", "127.0.0.1:10025", "", "", "shop",
        "Shop SA", "1 rue X, Paris", "shop", "shop.example", "-", "", "", "", "news",
        "running shoes, bags", "", "", "",
    )  # fmt: skip
    assert code == 0, seen
    assert 'Error: "not a name" is not a host name' in seen
    assert "Brands that write to people, as short names, separated by commas: " in seen
    assert "Error: an answer is needed" in seen
    assert 'Error: "shop" is not a domain that others know' in seen
    there = Path("/etc/systemd/system/smtpproxy.service").exists()
    assert ("install -m 644 systemd/smtpproxy.service" in seen) is not there
    settings = load(tmp_path / "smtpproxy.toml")
    assert settings.streams["offers"].purpose == "news"
    assert settings.streams["offers"].products == {"running shoes", "bags"}
    assert settings.web is not None
    assert settings.web.public_url is None
    assert [*tmp_path.glob("*.pem")]
