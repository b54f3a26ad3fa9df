"""`smtpproxy audit export`: all decisions, for programs and for spreadsheets."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cli.conftest import Bench
from tests.kit import messages
from tests.kit.store import address

PEOPLE = ("consent", "complained", "nothing")


def exported(bench: Bench, *arguments: str) -> list[Any]:
    out, _ = bench.run("audit", "export", *arguments, code=0)
    return [json.loads(line) for line in out.splitlines()]


def rows(bench: Bench, *arguments: str) -> list[dict[str, str]]:
    out, _ = bench.run("audit", "export", "--format", "csv", *arguments, code=0)
    return list(csv.DictReader(out.splitlines()))


def test_every_decision_is_one_object_with_its_place_in_the_chain(bench: Bench) -> None:
    for name in PEOPLE:
        bench.relay.send(messages.marketing(subject=f"To {name}"), address(name))
    found = exported(bench)
    shown = bench.json("audit", "show", "--limit", "1000")
    assert {record["id"] for record in found} == {record["id"] for record in shown}
    by_recipient = {record["recipients"][0]["address"]: record for record in found}
    assert by_recipient[address("complained")]["recipients"][0]["reason"] == "suppressed_complaint"
    proofs = [record["proof"] for record in found]
    assert all(len(proof["hash"]) == 64 and proof["row"] > 1 for proof in proofs)


def test_decisions_can_be_filtered(bench: Bench) -> None:
    between = datetime.now(UTC).isoformat()
    bench.relay.send(messages.marketing(), address("withdrawn"))
    bench.relay.send(messages.message(stream="receipts"), address("withdrawn"))
    recipient = ("--recipient", address("withdrawn").upper())
    assert len(exported(bench, *recipient)) == 2
    assert len(exported(bench, *recipient, "--stream", "receipts")) == 1
    assert len(exported(bench, *recipient, "--until", between)) == 0
    assert len(exported(bench, "--since", between)) == 2
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert exported(bench, "--stream", "offers", "--since", soon) == []


def test_a_spreadsheet_has_a_row_for_each_recipient(bench: Bench, tmp_path: Path) -> None:
    subject = '=HYPERLINK("https://evil.example")'
    bench.relay.send(messages.marketing(subject=subject), address("consent"), address("nothing"))
    found = [row for row in rows(bench) if "HYPERLINK" in row["subject"]]
    assert [(row["recipient"], row["verdict"]) for row in found] == [
        (address("consent"), "allow"),
        (address("nothing"), "refuse"),
    ]
    assert found[0]["subject"] == f"'{subject}", "must not be a formula"
    assert (found[1]["reason"], found[1]["message_reason"]) == (
        "consent_missing",
        "recipients_refused",
    )
    file = tmp_path / "audit.csv"
    out, _ = bench.run("audit", "export", "--format", "csv", "--output", str(file), code=0)
    assert out == ""
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(list(csv.DictReader(file.open()))) == len(rows(bench))
