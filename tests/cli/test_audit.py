"""`smtpproxy audit show`: decisions recorded by a running relay."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Bench
from tests.kit import messages
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import COMMAND
from tests.kit.store import address
from tests.kit.toml import to_toml


def sent(bench: Bench, message: bytes, *recipients: str) -> str:
    """Send to people; return the id of the decision."""
    before = {record["id"] for record in bench.json("audit", "show", "--limit", "10000")}
    bench.relay.send(message, *(address(name) for name in recipients))
    after = {record["id"] for record in bench.json("audit", "show", "--limit", "10000")}
    (decision_id,) = after - before
    return str(decision_id)


def test_a_relayed_message_is_recorded_with_its_basis(bench: Bench) -> None:
    message = messages.marketing(subject="Spring shoes", message_id="<spring@shop.example>")
    decision_id = sent(bench, message, "consent")

    def answered() -> bool:
        return bench.json("audit", "show", decision_id)[0]["upstream"] is not None

    wait_for(answered, "the upstream's answer on record")
    (record,) = bench.json("audit", "show", decision_id, code=0)
    assert record["stage"] == "data"
    assert (record["listener"], record["peer"], record["helo"]) == (
        "apps", "127.0.0.1", "client.example",
    )  # fmt: skip
    assert record["mail_from"] == "news@shop.example"
    assert (record["subject"], record["message_id"]) == ("Spring shoes", "<spring@shop.example>")
    assert (record["stream"], record["rulebook"]) == ("offers", "fr")
    assert (record["observed"], record["relayed"]) == (False, True)
    assert record["message"] == {"verdict": "allow", "reason": "none"}
    (recipient,) = record["recipients"]
    assert (recipient["verdict"], recipient["basis"]) == ("allow", "consent")
    (act,) = recipient["facts"]["contact"]["acts"]
    assert (act["evidence"]["wording"], act["evidence"]["ip"]) == ("form v3", "192.0.2.7")
    assert (record["upstream"]["code"], record["upstream"]["reply"]) == (
        250,
        "250 2.0.0 queued as FAKE",
    )
    age = datetime.now(UTC) - datetime.fromisoformat(record["at"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_a_refusal_at_rcpt_is_recorded(bench: Bench) -> None:
    decision_id = sent(bench, messages.marketing(), "complained")
    (record,) = bench.json("audit", "show", decision_id, code=0)
    assert (record["stage"], record["message"], record["upstream"]) == ("rcpt", None, None)
    assert record["relayed"] is False
    assert record["recipients"][0]["reason"] == "suppressed_complaint"
    assert record["recipients"][0]["facts"]["suppressions"][0]["origin"] == "complaint"


def test_one_decision_as_text(bench: Bench) -> None:
    decision_id = sent(bench, messages.marketing(subject="\x1b[31mred"), "consent", "nothing")
    out, _ = bench.run("audit", "show", decision_id, code=0)
    text = " ".join(out.split())
    assert f"id {decision_id}" in text
    (record,) = bench.json("audit", "show", decision_id)
    assert f"time {record['at']} " in text
    assert "message refuse, recipients_refused" in text
    assert "consent@people.example: allow, consent" in text
    assert "nothing@people.example: refuse, consent_missing" in text
    assert "consumer, source direct" in text
    assert "offers agreed to" in text
    assert "\x1b[31m" not in out


def test_decisions_are_found_by_recipient_stream_and_time(bench: Bench) -> None:
    first = sent(bench, messages.marketing(), "withdrawn")
    between = datetime.now(UTC).isoformat()
    second = sent(bench, messages.message(stream="receipts"), "withdrawn")

    def found(*arguments: str) -> list[str]:
        recipient = ("--recipient", "Withdrawn@PEOPLE.example")
        return [r["id"] for r in bench.json("audit", "show", *recipient, *arguments, code=0)]

    assert found() == [first, second]
    assert found("--stream", "receipts") == [second]
    assert found("--since", between) == [second]
    assert found("--until", between) == [first]
    assert found("--limit", "1") == [second]
    assert found("--stream", "appeals") == []


def test_the_list_has_a_line_for_each_recipient(bench: Bench) -> None:
    decision_id = sent(bench, messages.marketing(), "consent", "nothing")
    out, _ = bench.run("audit", "show", code=0)
    lines = [line for line in out.splitlines() if decision_id in line]
    assert len(lines) == 2
    assert re.search(r"consent@people.example\s+refuse\s+recipients_refused", lines[0])
    assert re.search(r"nothing@people.example\s+refuse\s+consent_missing", lines[1])


def test_the_list_shows_the_reason_given_to_the_app_first(
    bench: Bench,
) -> None:
    decision_id = sent(bench, messages.message(), "consent", "nothing")
    out, _ = bench.run("audit", "show", "--reason", "unsubscribe_missing", code=0)
    lines = [line for line in out.splitlines() if decision_id in line]
    assert re.search(r"consent@people.example +refuse +unsubscribe_missing +$", lines[0] + " ")
    assert re.search(r"refuse +unsubscribe_missing, consent_missing", lines[1])
    found = bench.json("audit", "show", "--reason", "consent_missing", code=0)
    assert decision_id in [record["id"] for record in found]


def test_the_list_says_if_there_is_more(bench: Bench) -> None:
    sent(bench, messages.marketing(), "bounced")
    sent(bench, messages.marketing(), "bounced")
    _, err = bench.run("audit", "show", "--recipient", address("bounced"), "--limit", "1", code=0)
    assert err.endswith("There are more, older than these 1: see --limit.\n")
    out, err = bench.run("audit", "show", "--recipient", "nobody@else.example", code=0)
    assert (out, err) == ("", "No decision on record matches.\n")


def test_an_unknown_id_is_reported(bench: Bench) -> None:
    _, err = bench.run("audit", "show", "01JBZ4D5E6F7G8H9J0K1M2N3P4", code=1)
    assert err == "Error: no decision 01JBZ4D5E6F7G8H9J0K1M2N3P4 is on record\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("x",), "'x' is not a decision id"),
        (("a@b.example",), "an address, not a decision id: smtpproxy audit show"),
        (("01JBZ4D5E6F7G8H9J0K1M2N3P4", "--stream", "offers"), "an ID takes no filters"),
        (("--recipient", "nobody"), "for '--recipient'"),
        (("--since", "yesterday"), "'yesterday' is not a time"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_wrong_usage_is_explained(bench: Bench, arguments: tuple[str, ...], says: str) -> None:
    out, err = bench.run("audit", "show", *arguments, code=2)
    assert out == ""
    assert says in err


def test_an_unreadable_journal_is_not_taken_for_an_empty_one(bench: Bench, tmp_path: Path) -> None:
    server = {**bench.relay.config["server"], "state_dir": str(tmp_path)}
    path = tmp_path / "other.toml"
    path.write_text(to_toml({**bench.relay.config, "server": server}))
    (tmp_path / "audit").write_text("")
    _, err = bench.run("audit", "show", code=1, config_path=path)
    assert err == f"Error: {tmp_path / 'audit'}: Not a directory\n"


def shown_at(bench: Bench, columns: int) -> list[str]:
    """What `audit show` prints in a terminal of that width."""
    config = ("--config", str(bench.relay.config_path))
    done = run(*COMMAND, "audit", "show", *config, env={"COLUMNS": str(columns)})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 132, 300])
def test_verdict_and_reason_are_never_cut(bench: Bench, columns: int) -> None:
    sent(bench, messages.marketing(), "complained")
    sent(bench, messages.marketing(), "withdrawn")
    lines = shown_at(bench, columns)
    text = "\n".join(lines)
    assert re.search(r"refuse +suppressed_complaint\b", text)
    assert re.search(r"refuse +consent_withdrawn\b", text)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert address("complained") in text
    if columns >= 80:
        assert max(map(len, lines)) <= columns


def test_the_first_characters_of_an_id_suffice(bench: Bench) -> None:
    id = sent(bench, messages.marketing(), "complained")
    (line,) = [line for line in shown_at(bench, 80) if id[:12] in line][:1]
    (beginning,) = re.findall(rf"\b{id[:12]}\w*", line)
    assert len(beginning) < len(id)
    assert bench.json("audit", "show", beginning.lower(), code=0)[0]["id"] == id
    out, _ = bench.run("explain", "--id", beginning, code=1)
    assert "suppressed_complaint" in out
    other = sent(bench, messages.marketing(), "complained")
    while other[:6] != id[:6]:  # a quarter of an hour ended between the two
        id, other = other, sent(bench, messages.marketing(), "complained")
    _, err = bench.run("audit", "show", id[:6], code=2)
    assert f"decisions begin with {id[:6]}: 01" in err


def test_decisions_are_found_by_verdict_reason_app_and_message_id(bench: Bench) -> None:
    start = datetime.now(UTC).isoformat()
    spring = messages.marketing(message_id="<find-me/1@shop.example>")
    allowed = sent(bench, spring, "consent")
    refused = sent(bench, messages.marketing(), "complained")
    faulty = sent(bench, messages.message(message_id="<plain@shop.example>"), "consent")
    mixed = sent(bench, messages.marketing(), "consent", "nothing")

    def found(*arguments: str) -> list[str]:
        return [r["id"] for r in bench.json("audit", "show", "--since", start, *arguments, code=0)]

    assert found("--verdict", "allow") == [allowed]
    assert found("--verdict", "refuse") == [refused, faulty, mixed]
    assert found("--reason", "suppressed_complaint") == [refused]
    assert found("--reason", "unsubscribe_missing", "--verdict", "refuse") == [faulty]
    assert found("--reason", "recipients_refused") == [mixed]
    assert found("--reason", "suppressed_complaint", "--verdict", "defer") == []
    assert found("--message-id", "<find-me/1@shop.example>") == [allowed]
    assert found("--message-id", "plain@shop.example") == [faulty]
    assert found("--message-id", "me/1@shop.example") == []
    assert found("--app", "apps") == found("--app", "apps/127.0.0.1") == found()
    assert found("--app", "apps/billing") == []
    exported, _ = bench.run("audit", "export", "--since", start, "--reason", "consent_missing")
    assert [mixed in line for line in exported.splitlines()] == [True]
    assert "an ID takes no filters" in bench.run("audit", "show", mixed, "--app", "x", code=2)[1]
    assert "is not one of" in bench.run("audit", "show", "--reason", "nothing", code=2)[1]


def test_the_list_fits_a_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(bench, messages.marketing(), "complained")
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = bench.run("audit", "show", "--reason", "suppressed_complaint", code=0)
    assert max(map(len, out.splitlines())) <= 80
