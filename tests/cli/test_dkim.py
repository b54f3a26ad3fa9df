"""`smtpproxy dkim`: keys, records, and the verification of signatures."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smtpproxy.cli import main
from smtpproxy.config import load
from tests.kit.dkim import KeyFile, signed
from tests.kit.dns import NameServer
from tests.kit.messages import marketing
from tests.kit.relay import relay_config
from tests.kit.store import address, fill_database
from tests.kit.toml import to_toml

ALL = ["from", "subject", "list-unsubscribe", "list-unsubscribe-post"]


def _run(*arguments: str, config: Path | None = None) -> Result:
    end = [] if config is None else ["--config", str(config)]
    return CliRunner().invoke(main, ["dkim", *arguments, *end])


def _config(folder: Path, **more: Any) -> Path:
    path = folder / "smtpproxy.toml"
    path.write_text(to_toml(relay_config(folder, "127.0.0.1:9", more)))
    return path


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_new_key_is_private_and_its_record_valid(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "s1.pem"
    names = ("--domain", "Shop.example", "--selector", "s1", "--type", kind)
    done = _run("keygen", str(file), *names)
    assert done.exit_code == 0, done.output
    assert file.stat().st_mode & 0o777 == 0o600
    assert "s1._domainkey.shop.example. IN TXT" in done.output
    assert f'key = "{file}"' in done.output
    message = tmp_path / "message.eml"
    key = KeyFile(tmp_path, "s1")
    if kind == "rsa":
        key.pem = file.read_bytes()
        message.write_bytes(signed(marketing(), key, ALL))
        records = tmp_path / "records"
        records.write_text(done.output)
        found = _run("verify", str(message), "--record", str(records), config=_config(tmp_path))
        assert (found.exit_code, found.output) == (
            0,
            "shop.example (selector s1): valid; dkimpy: valid\n",
        )
    for taken in (str(file), str(tmp_path), ".", "/", ""):  # the last one as an unset variable
        again = _run("keygen", taken, *names)
        assert (again.exit_code, "never overwritten" in again.output) == (1, True), taken


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_gives_a_new_key_to_the_relay(tmp_path: Path) -> None:
    config = _config(tmp_path)
    state = load(config).server.state_dir
    state.mkdir(exist_ok=True)
    os.chown(state, 65534, 65534)
    home = tmp_path / "home"  # of a user who must not read the key
    home.mkdir()
    os.chown(home, 4711, 4711)
    names = ("--domain", "shop.example", "--selector", "s1", "--type", "ed25519")
    for more, owner in (({"config": config}, 65534), ({"config": tmp_path / "not.toml"}, 0)):
        file = home / f"{owner}.pem"
        done = _run("keygen", str(file), *names, **more)
        assert (done.exit_code, file.stat().st_uid) == (0, owner), done.output


def test_the_records_of_the_configured_keys(tmp_path: Path) -> None:
    keys = [KeyFile(tmp_path, "r1"), KeyFile(tmp_path, "e1", kind="ed25519")]
    config = _config(tmp_path, dkim=[key.table() for key in keys])
    told = json.loads(_run("record", "--json", config=config).output)
    assert [entry["record"] for entry in told] == [str(key.record) for key in keys]
    assert [(entry["type"], entry["bits"]) for entry in told] == [("rsa", 2048), ("ed25519", 256)]
    lines = _run("record", "--selector", "e1", config=config).output
    assert lines == f'e1._domainkey.shop.example. IN TXT "{keys[1].record}"\n'
    assert _run("record", "--selector", "none", config=config).exit_code == 1
    one = _run(
        "record", str(keys[0].path), "--domain", "a.example", "--selector", "x", config=config
    )
    assert one.output.startswith("x._domainkey.a.example. IN TXT")
    assert _run("record", str(keys[0].path), config=config).exit_code == 2


def test_verify_queries_the_dns_and_explains_each_failure(tmp_path: Path) -> None:
    key = KeyFile(tmp_path)
    message = tmp_path / "message.eml"
    raw = signed(signed(marketing(), key, ALL), key, ["from"])
    message.write_bytes(raw.replace(b"\r\n", b"\n"))  # line ends as in files on this machine
    with NameServer(key.dns) as dns:
        config = _config(tmp_path, dns={"nameservers": [dns.address], "timeout": "500ms"})
        done = _run("verify", str(message), config=config)
        assert done.exit_code == 0
        assert "valid; does not cover both unsubscribe fields; dkimpy: valid\n" in done.output
        assert done.output.endswith("(selector s1): valid; dkimpy: valid\n")
        message.write_bytes(raw.replace(b"are in", b"are out"))
        broken = _run("verify", str(message), "--json", config=config)
        assert broken.exit_code == 1
        told = json.loads(broken.output)
        assert [each["state"] for each in told] == ["broken", "broken"]
        assert [each["dkimpy"] for each in told] == ["not valid", "not valid"]
        dns.fail(key.name, "servfail")
        message.write_bytes(raw)
        unknown = _run("verify", str(message), config=config)
        assert unknown.exit_code == 1
        assert "unknown: TXT s1._domainkey.shop.example" in unknown.output


def test_a_signature_is_valid_only_if_dkimpy_agrees(tmp_path: Path) -> None:
    key = KeyFile(tmp_path)
    message, records = tmp_path / "message.eml", tmp_path / "records"
    config = _config(tmp_path)
    message.write_bytes(signed(marketing(), key, ALL))

    def verify(record: str) -> Result:
        records.write_text(f'{key.name}. IN TXT "{record}"\n')
        return _run("verify", str(message), "--record", str(records), config=config)

    # A key not for SHA-256: dkimpy does not check that. One for mail and more: it refuses that.
    for tag, said in (
        ("h=sha1", "unusable: it does not allow sha256; dkimpy disagrees: valid\n"),
        ("s=email:other", "valid; dkimpy disagrees: not valid\n"),
    ):
        done = verify(str(key.record).replace("v=DKIM1;", f"v=DKIM1; {tag};"))
        assert (done.exit_code, said in done.output) == (1, True), done.output
    message.write_bytes(message.read_bytes() + b" " * 2000 + b"x\r\n")
    done = verify(str(key.record))
    assert (done.exit_code, "; dkimpy gives no answer" in done.output) == (1, True), done.output


@pytest.mark.parametrize(
    ("cut", "mark", "told"), [(998, "", True), (989, "!", True), (997, "", False), (989, "", False)]
)
def test_verify_detects_a_line_broken_by_an_mta(
    tmp_path: Path, cut: int, mark: str, told: bool
) -> None:
    key = KeyFile(tmp_path)
    records, message = tmp_path / "records", tmp_path / "message.eml"
    records.write_text(key.dns)
    raw = signed(marketing(body=f"{'x' * 1_500}\r\n"), key, ALL)
    for broken in (raw, raw.replace(b"x" * 1_500, b"x" * cut + f"{mark}\r\n xx".encode())):
        message.write_bytes(broken)
        done = _run("verify", str(message), "--record", str(records), config=_config(tmp_path))
        assert ("; an MTA has broken a line" in done.output) == (told and broken is not raw)
    assert "broken: the body is not what was signed" in done.output


def test_a_message_without_a_signature(tmp_path: Path) -> None:
    message = tmp_path / "message.eml"
    message.write_bytes(marketing())
    done = _run("verify", str(message), config=_config(tmp_path))
    assert done.exit_code == 1
    assert "no DKIM signature" in done.output


def test_check_examines_the_keys(tmp_path: Path) -> None:
    good, open_to_all = KeyFile(tmp_path, "good"), KeyFile(tmp_path, "open")
    open_to_all.path.chmod(0o644)
    weak = KeyFile(tmp_path, "weak", bits=1024)
    early = {"from": "X-DATE"}

    def check(*tables: dict[str, Any]) -> Result:
        config = _config(tmp_path, dkim=list(tables))
        config.write_text(re.sub(r'"X-DATE"', "2099-01-01", config.read_text()))
        return CliRunner().invoke(main, ["check", "--config", str(config)])

    assert check(good.table()).exit_code == 0
    wrong = check(good.table(), open_to_all.table())
    assert wrong.exit_code == 2
    assert "dkim[1].key: " in wrong.output
    assert "may be read by others" in wrong.output
    assert "dkim[0].key: " in check(weak.table()).output
    assert "has 1024 bits; use 2048" in check(weak.table()).output
    twice = check(good.table(), weak.table())
    assert twice.exit_code == 2
    assert "dkim[1].from: dkim[0] is an rsa key of shop.example too" in twice.output
    rotation = check(good.table(), weak.table(**early))
    assert rotation.exit_code == 0
    assert "signs before 2099-01-01" in check(weak.table(**early)).output
    assert 'stream "appeals".from_domains: no [[dkim]] key signs the mail of charity.example' in (
        check(good.table()).output.replace("\n", " ")
    )


def test_explain_verifies_signatures_like_the_relay(tmp_path: Path) -> None:
    key = KeyFile(tmp_path)
    message = tmp_path / "message.eml"
    with NameServer(key.dns) as dns:
        servers = {"nameservers": [dns.address]}

        def rule(names: list[str], *more: str, **config: Any) -> tuple[str, str]:
            message.write_bytes(signed(marketing(), key, names))
            path = _config(tmp_path, dns=servers, **config)
            done = CliRunner().invoke(
                main,
                ["explain", str(message), "--mail-from", "news@shop.example", "--rcpt",
                 address("consent"), "--json", *more, "--config", str(path)],
            )  # fmt: skip
            told = json.loads(done.output)["message"]
            steps = told.get("trace", [])
            return told["reason"], " ".join(step["text"] for step in steps)

        opened = load(_config(tmp_path, dns=servers))
        opened.server.state_dir.mkdir()
        fill_database(opened.store.url, opened.server.state_dir, datetime.now(UTC))
        assert rule(ALL)[0] == "none"
        assert rule(["from"])[0] == "unsubscribe_unsigned"
        assert rule(["from"], dkim=[key.table()])[0] == "none"
        moment = datetime.now(UTC).isoformat()
        assert rule(["from"], "--at", moment)[0] == "none"  # nobody knows what the DNS held then
        dns.fail(key.name, "servfail")
        assert rule(ALL)[0] == "temporary_failure"
