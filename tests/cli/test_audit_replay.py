"""`smtpproxy audit replay`: what another rulebook would have decided."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Bench
from tests.kit import messages
from tests.kit.store import address

STRICT = 'name = "strict"\nextends = "fr"\nvalid_methods = ["double_opt_in"]\n'


@pytest.fixture(scope="module")
def judged(bench: Bench) -> dict[str, str]:
    """Ids of some decisions, by recipient."""
    ids = {}
    for name in ("consent", "complained", "nothing"):
        before = {record["id"] for record in bench.json("audit", "show")}
        bench.relay.send(messages.marketing(), address(name))
        (ids[name],) = {record["id"] for record in bench.json("audit", "show")} - before
    return ids


@pytest.fixture
def strict(tmp_path: Path) -> str:
    path = tmp_path / "strict.toml"
    path.write_text(STRICT)
    return str(path)


def replayed(bench: Bench, *arguments: str) -> Any:
    return bench.json("audit", "replay", *arguments, code=0)


def test_the_same_rulebook_changes_nothing(bench: Bench, judged: dict[str, str]) -> None:
    found = replayed(bench, "--rulebook", "fr")
    assert (found["differing"], found["changes"]) == (0, [])
    assert found["recipients"] >= 3
    out, _ = bench.run("audit", "replay", "--rulebook", "fr", code=0)
    assert out.endswith("judged again under fr: 0 differ\n")


def test_another_rulebook_refuses_what_passed(
    bench: Bench, judged: dict[str, str], strict: str
) -> None:
    found = replayed(bench, "--rulebook", strict, "--stream", "offers")
    assert found["rulebook"] == "strict"
    assert {
        "of": "recipient",
        "before": "allow, consent",
        "after": "refuse, consent_unproven",
        "count": 1,
    } in found["changes"]
    assert found["differing"] == sum(change["count"] for change in found["changes"])


def test_changed_decisions_are_listed(bench: Bench, judged: dict[str, str], strict: str) -> None:
    out, _ = bench.run("audit", "replay", "--rulebook", strict, "--list", code=0)
    (line,) = [line for line in out.splitlines() if line.startswith(judged["consent"])]
    assert line.endswith(f"offers {address('consent')}: allow, consent -> refuse, consent_unproven")
    assert judged["complained"] not in out
    out, _ = bench.run("audit", "replay", "--rulebook", strict, "--list", "--json", code=0)
    *changes, summary = map(json.loads, out.splitlines())
    assert judged["consent"] in [change["id"] for change in changes]
    assert summary["differing"] >= 1


def test_a_period_can_be_chosen(bench: Bench, judged: dict[str, str], strict: str) -> None:
    found = replayed(bench, "--rulebook", strict, "--until", "2020-01-01")
    assert (found["decisions"], found["differing"]) == (0, 0)


def test_an_unknown_or_invalid_rulebook_is_refused(bench: Bench, tmp_path: Path) -> None:
    _, err = bench.run("audit", "replay", "--rulebook", "nonesuch", code=2)
    assert '"nonesuch" is not a rulebook: fr, uk' in err
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\nconsent_years = "three"\n')
    _, err = bench.run("audit", "replay", "--rulebook", str(bad), code=2)
    assert f"{bad}: consent_years: " in err
