"""A relay that asks the DNS whether its recipients' domains take mail."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.audit import records
from tests.kit.dns import NameServer
from tests.kit.messages import marketing, message
from tests.kit.mta import mta as milter_client
from tests.kit.policy import policy_client
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream

PERSON = "jeanne@null.example"


@pytest.fixture(scope="module")
def dns() -> Iterator[NameServer]:
    with NameServer("null.example MX 0 .", "good.example MX 10 mx.good.example.") as server:
        server.fail("silent.example", "silence")
        yield server


@pytest.fixture(scope="module")
def relay(dns: NameServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    config = {
        "dns": {"nameservers": [dns.address], "timeout": "1s"},
        "policy": {"check_recipient_domain": True},
        "web": {},
        "listener": [
            listener("apps", "receipts", default="receipts"),
            listener("ads", "offers", default="offers"),
            listener("milter", "receipts", default="receipts", protocol="milter"),
            listener("policy", "receipts", default="receipts", protocol="policy"),
        ],
    }
    with FakeUpstream() as mta:
        relay = RelayProcess(tmp_path_factory.mktemp("relay"), mta.address, config)
        with relay:
            yield relay


def test_only_the_recipient_with_a_null_mx_is_refused_with_the_rfcs_reply(
    relay: RelayProcess,
) -> None:
    code, text = relay.send(message(), PERSON)
    assert code == 556
    assert f"5.1.10 <{PERSON}> refused: null_mx (stream " in text
    for domain in ("good.example", "nowhere.example", "silent.example"):
        assert relay.send(message(), f"jeanne@{domain}")[0] == 250


def test_the_refusal_is_recorded_explained_and_counted(relay: RelayProcess) -> None:
    relay.send(message(), PERSON)
    entry = records(relay)[-1].decided
    assert [r.verdict.reason for r in entry.recipients] == ["null_mx"]
    assert entry.facts[PERSON].null_mx is True
    _, found, _ = relay.command("explain", "--id", entry.id, "--json")
    (told,) = json.loads(found)["recipients"]
    assert told["reason"] == "null_mx"
    assert "What is on record stands" not in found
    assert relay.metric("smtpproxy_recipients_total", reason="null_mx", verdict="refuse") >= 1
    assert relay.metric("smtpproxy_dns_lookups_total", outcome="answered") >= 1


def test_milter_and_policy_server_give_the_same_answer(relay: RelayProcess) -> None:
    with milter_client(relay.port("milter")) as mta:
        mta.negotiate()
        mta.connect()
        mta.mail("news@shop.example")
        assert mta.rcpt(PERSON).reply.startswith(f"556 5.1.10 <{PERSON}> refused: null_mx")
    with policy_client(relay.port("policy")) as postfix:
        assert postfix.rcpt(PERSON).startswith(f"556 5.1.10 <{PERSON}> refused: null_mx")
        assert postfix.rcpt("jeanne@good.example").startswith("DUNNO")


def test_recipients_refused_anyway_cause_no_dns_query(relay: RelayProcess, dns: NameServer) -> None:
    code, text = relay.send(marketing(), "nobody@unasked.example", listener="ads")
    assert (code, "no_record" in text) == (550, True)
    assert dns.count("unasked.example", "MX") == 0


def test_explain_queries_the_dns_like_the_relay(relay: RelayProcess, tmp_path: Path) -> None:
    path = tmp_path / "message.eml"
    path.write_bytes(message())
    arguments = ("--mail-from", "a@shop.example", "--rcpt", PERSON, "--json")
    code, found, _ = relay.command("explain", str(path), *arguments)
    assert code == 1
    (told,) = json.loads(found)["recipients"]
    assert told["reply"].startswith("556 5.1.10 ")
