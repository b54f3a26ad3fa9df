"""`smtpproxy doctor`, as users run it."""

import json
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.doctor.finding import FACTS, Check, demands
from smtpproxy.relay.dkim_signing import new_key
from tests.kit.dns import NameServer
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

OWN = {
    "stream": [
        {
            "name": "offers",
            "class": "marketing",
            "purpose": "offers",
            "from_domains": ["shop.example"],
        }
    ],
    "doctor": {"sending_addresses": ["192.0.2.25"]},
}


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(
        'shop.example TXT "v=spf1 ip4:192.0.2.25 -all"',
        '_dmarc.shop.example TXT "v=DMARC1; p=reject; rua=mailto:dmarc@shop.example"',
        "shop.example MX 10 mta.shop.example.",
        "mta.shop.example A 192.0.2.25",
        "25.2.0.192.in-addr.arpa PTR mta.shop.example.",
    ) as server:
        yield server


@pytest.fixture
def relay(dns: NameServer, tmp_path: Path) -> Iterator[RelayProcess]:
    """A correct configuration: a signing relay in front of an MTA, not running."""
    pem, key = new_key("ed25519")
    path = tmp_path / "s1.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    dns.add(f's1._domainkey.shop.example TXT "{key.record}"')
    config = {
        **OWN,
        "dns": {"nameservers": [dns.address], "timeout": "1s"},
        "dkim": [{"domain": "shop.example", "selector": "s1", "key": str(path)}],
    }
    with FakeUpstream() as mta:
        yield RelayProcess(tmp_path, mta.address, config)


def _report(relay: RelayProcess, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, stdout, stderr = relay.command("doctor", "--json", *arguments)
    assert stderr == ""
    return code, json.loads(stdout)


def _statuses(report: dict[str, Any], subject: str) -> dict[str, str]:
    return {f["check"]: f["status"] for f in report["findings"] if f["subject"] == subject}


def test_a_correct_setup_ends_with_0(relay: RelayProcess) -> None:
    code, report = _report(relay)
    assert (code, report["status"], report["domains"]) == (0, "pass", ["shop.example"])
    kinds = ("spf", "dkim", "dmarc", "alignment", "mx")
    assert _statuses(report, "shop.example") == dict.fromkeys(kinds, "pass")
    assert _statuses(report, "192.0.2.25") == {"ptr": "pass"}
    told = {line["demand"]: line["status"] for line in report["checklist"]}
    assert told["SPF, DKIM and DMARC all pass"] == "pass"
    assert told["spam rate below 0.1 %, never 0.3 %"] == "unknown"
    assert "fail" not in told.values()
    assert {line["provider"] for line in report["checklist"]} == {
        "Gmail", "Yahoo", "Microsoft", "Orange", "La Poste",
    }  # fmt: skip
    assert all(line["source"] for line in report["checklist"])


def test_a_narrow_terminal_truncates_nothing(
    relay: RelayProcess, dns: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    dns.remove("_dmarc.shop.example", "TXT")
    code, stdout, _ = relay.command("doctor", "--only", "dmarc")
    assert code == 1
    assert "…" not in stdout
    assert "rua=mailto:dmarc@shop.example" in "".join(stdout.split())


def test_a_failure_ends_with_1_and_says_what_to_do(relay: RelayProcess, dns: NameServer) -> None:
    dns.remove("_dmarc.shop.example", "TXT")
    dns.remove("shop.example", "MX")
    dns.add("shop.example MX 0 .")
    dns.remove("relay.example", "TXT")
    code, report = _report(relay)
    assert _statuses(report, "relay.example") == {"spf": "warn"}, "it is for bounces only"
    assert (code, report["status"]) == (1, "fail")
    found = _statuses(report, "shop.example")
    assert (found["dmarc"], found["mx"], found["spf"]) == ("fail", "fail", "pass")
    told = {(line["provider"], line["demand"]): line["status"] for line in report["checklist"]}
    assert told["La Poste", "the sender's domain can receive mail (LPN007_405)"] == "fail"
    assert told["Orange", "SPF, DKIM and DMARC all pass"] == "fail"
    code, stdout, _ = relay.command("doctor")
    assert code == 1
    assert "fail" in stdout
    assert "→ publish TXT" in stdout
    assert "What mailbox providers require of bulk senders" in stdout


def test_a_single_check_and_a_single_domain(relay: RelayProcess, dns: NameServer) -> None:
    code, report = _report(relay, "--only", "mx", "--only", "dmarc", "--domain", "Other.Example")
    assert code == 1
    assert {f["check"] for f in report["findings"]} == {"mx", "dmarc"}
    assert report["domains"] == ["other.example"]
    assert report["checklist"] == []
    assert not [name for name, _ in dns.asked if name.endswith("in-addr.arpa")]


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
def test_without_dns_answers_results_are_unknown(
    relay: RelayProcess, dns: NameServer, fault: str
) -> None:
    for name in ("shop.example", "_dmarc.shop.example", "s1._domainkey.shop.example"):
        dns.fail(name, fault)  # type: ignore[arg-type]
    if fault in ("silence", "garbage"):
        relay.config["dns"]["timeout"] = "200ms"
        relay.write_config()
    code, report = _report(relay)
    assert (code, report["status"]) == (0, "pass")  # nothing is known to be wrong
    assert set(_statuses(report, "shop.example").values()) == {"unknown"}


def test_a_truncated_answer_is_requested_again(relay: RelayProcess, dns: NameServer) -> None:
    dns.fail("shop.example", "truncated")
    _, report = _report(relay, "--only", "spf")
    assert _statuses(report, "shop.example") == {"spf": "pass"}


def test_an_unresponsive_dns_is_not_waited_for(relay: RelayProcess, dns: NameServer) -> None:
    dns.fail("shop.example", "silence")
    _, report = _report(relay, "--timeout", "0.3", "--only", "spf")
    assert "not finished within 0.3 s" in {f["text"] for f in report["findings"]}


def test_wrong_usage_is_explained(relay: RelayProcess) -> None:
    for arguments in (("--only", "nothing"), ("--domain", "@shop.example"), ("--timeout", "0")):
        code, stdout, stderr = relay.command("doctor", *arguments)
        assert (code, stdout) == (2, "")
        assert "Error" in stderr


def test_every_demand_has_a_source_and_refers_to_existing_checks() -> None:
    known = {*Check, *FACTS}
    for demand in demands():
        assert demand.source
        assert set(demand.needs) <= known
        assert bool(demand.needs) != bool(demand.see), demand.text
    text = files("smtpproxy.doctor").joinpath("providers.toml").read_text("utf-8")
    assert set(tomllib.loads(text)) == {"demand"}
