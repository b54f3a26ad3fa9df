"""Each stream under its own law, and a first message that must name its source."""

import json
import smtplib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

STATEMENT = "You get this because Lists Ltd, where you are a member, gave us your address."
RECENT = (datetime.now(UTC) - timedelta(days=30)).isoformat()
PARTNERS_CUSTOMER = {
    "address": address("handed-on"),
    "source": "partner",
    "provenance": {"supplier": "Lists Ltd", "sender_disclosed": True},
    "collected_at": RECENT,
    "informed_at": RECENT,
    "consents": [
        {
            "purpose": "news",
            "method": "double_opt_in",
            "given_at": RECENT,
            "evidence": {"wording": "form v3"},
        }
    ],
}


def _stream(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "class": "marketing", "purpose": name, **more}


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    config = {
        "web": {},
        "listener": [
            listener("france", "offers", default="offers"),
            listener("america", "deals", default="deals"),
            listener("both", "offers", "deals"),
            listener("news", "news", default="news"),
            listener("europe", "club", default="club"),
        ],
        "stream": [
            _stream("offers", products=["shoes"]),
            _stream("deals", rulebook="us"),
            _stream("news", first_contact_notice=True),
            _stream("club", rulebook="eu-strict"),
        ],
    }
    relay = filled(mta.address, config)
    other = {**PARTNERS_CUSTOMER, "address": address("never-mailed")}
    relay.fill([json.dumps(PARTNERS_CUSTOMER), json.dumps(other)])
    return relay


def rcpt(relay: RelayProcess, via: str, name: str) -> int:
    with smtplib.SMTP(LOOPBACK, relay.port(via)) as client:
        client.ehlo()
        client.mail("news@shop.example")
        return client.rcpt(address(name))[0]


def test_a_stranger_is_refused_in_france_and_not_in_america(relay: RelayProcess) -> None:
    assert (rcpt(relay, "france", "stranger"), rcpt(relay, "america", "stranger")) == (550, 250)
    assert relay.send(marketing(), address("stranger"), listener="america")[0] == 250
    (record,) = records(relay, stream="deals", recipient=address("stranger"))
    assert record.decided.decision.rulebook == "us"
    assert record.decided.recipients[0].verdict.basis == "opt_out"


def test_people_who_objected_are_refused_under_every_law(relay: RelayProcess) -> None:
    for name in ("unsubscribed", "complained"):
        assert (rcpt(relay, "france", name), rcpt(relay, "america", name)) == (550, 550)


def test_if_the_header_chooses_the_law_judgement_waits_for_it(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    assert rcpt(relay, "both", "stranger") == 250
    before = len(mta.messages)
    code, text = relay.send(marketing(stream="offers"), address("stranger"), listener="both")
    assert (code, "refused: no_record (stream offers)" in text) == (550, True)
    assert len(mta.messages) == before
    assert relay.send(marketing(stream="deals"), address("stranger"), listener="both")[0] == 250


def test_a_first_message_must_name_the_source_of_the_address(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    assert rcpt(relay, "news", "handed-on") == 250
    before = len(mta.messages)
    code, text = relay.send(marketing(), address("handed-on"), listener="news")
    assert code == 550
    assert "<handed-on@people.example> refused: source_not_announced (stream news)" in text
    assert len(mta.messages) == before
    mail = marketing(headers=[("X-Source-Statement", STATEMENT)])
    assert relay.send(mail, address("handed-on"), listener="news")[0] == 250
    assert f"X-Source-Statement: {STATEMENT}\r\n".encode() in mta.messages[-1].data
    *_, refused, passed = records(relay, stream="news")
    assert refused.decided.features is not None
    assert refused.decided.features.source_statement is None
    assert passed.decided.features is not None
    assert passed.decided.features.source_statement == STATEMENT
    _, stdout, _ = relay.command("explain", "--id", passed.decided.id, "--json")
    assert json.loads(stdout)["source_announced"] == STATEMENT
    _, stdout, _ = relay.command("explain", "--id", passed.decided.id)
    told = " ".join(stdout.split())
    assert f"The message says where the addresses come from: “{STATEMENT}”" in told
    # The next message is not a first one.
    assert relay.send(marketing(), address("handed-on"), listener="news")[0] == 250


def test_a_confirmed_double_opt_in_counts_across_europe(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    asking = ("consent", "record", address("joiner"), "--purpose", "club")
    code, _, told = relay.command(
        *asking, "--pending", "--wording", "the club's letter", "--form", "/join",
        "--source", "direct",
    )  # fmt: skip
    assert (code, "until the person confirms" in told) == (0, True)
    assert rcpt(relay, "europe", "joiner") == 550
    assert records(relay, stream="club")[-1].decided.recipients[0].verdict.reason == (
        "consent_unproven"
    )
    code, _, told = relay.command(*asking, "--confirm", "--ip", "192.0.2.7")
    assert (code, told) == (0, "")
    before = len(mta.messages)
    assert relay.send(marketing(), address("joiner"), listener="europe")[0] == 250
    assert len(mta.messages) == before + 1
    decided = records(relay, stream="club")[-1].decided
    assert (decided.decision.rulebook, decided.recipients[0].verdict.basis) == (
        "eu-strict",
        "consent",
    )
    acts = decided.facts[address("joiner")].contact.acts  # type: ignore[union-attr]
    assert [(act.pending, act.evidence.form) for act in acts] == [(True, "/join"), (False, None)]
    relay.command("consent", "withdraw", address("joiner"), "--purpose", "club")
    assert rcpt(relay, "europe", "joiner") == 550


def test_explain_agrees_with_the_relay(relay: RelayProcess) -> None:
    message = relay.root / "message.eml"
    for statement, expected in [(None, "source_not_announced"), (STATEMENT, "none")]:
        headers = [("X-Source-Statement", statement)] if statement else []
        message.write_bytes(marketing(headers=headers))
        code, stdout, _ = relay.command(
            "explain", str(message), "--mail-from", "news@shop.example",
            "--rcpt", address("never-mailed"), "--stream", "news", "--json",
        )  # fmt: skip
        (recipient,) = json.loads(stdout)["recipients"]
        assert recipient["reason"] == expected
        told = {step["rule"]: step for step in recipient["trace"]}
        assert told["source_announced"]["source"] == "design 4.6; A24; RGPD, art. 14, § 3, b)"
        assert code == (1 if statement is None else 0)
        assert json.loads(stdout)["source_announced"] == statement


def test_a_recorded_refusal_can_be_explained(relay: RelayProcess) -> None:
    code, text = relay.send(marketing(), address("never-mailed"), listener="news")
    assert code == 550
    decision_id = text.rpartition("id=")[2]
    _, stdout, _ = relay.command("explain", "--id", decision_id, "--json")
    (recipient,) = json.loads(stdout)["recipients"]
    last = [step for step in recipient["trace"] if step["outcome"] != "passed"][-1]
    assert (last["rule"], last["outcome"]) == ("source_announced", "refuse")


def test_metrics_count_each_basis_by_stream(relay: RelayProcess) -> None:
    def allowed() -> float:
        name = "smtpproxy_allowed_total"
        return relay.metric(name, stream="deals", basis="opt_out")

    before = allowed()
    relay.send(marketing(), address("stranger"), listener="america")
    wait_for(lambda: allowed() == before + 1, "the count of the basis")
    assert relay.metric("smtpproxy_allowed_total", stream="offers", basis="opt_out") == 0
