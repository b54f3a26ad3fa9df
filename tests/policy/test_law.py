"""docs/law.md covers every row of the digest, and whatever it names exists."""

import re
from pathlib import Path

import pytest

from smtpproxy.policy.rules import tables

REPOSITORY = Path(__file__).parents[2]
REASONS = (REPOSITORY / "docs" / "reasons.md").read_text("utf-8")
ROWS = {
    cells[0]: cells[1:]
    for line in (REPOSITORY / "docs" / "law.md").read_text("utf-8").splitlines()
    if re.match(r"\| A\d", line)
    for cells in [[cell.strip() for cell in line.strip("| ").split(" | ")]]
}
DIGEST = [f"A{number}" for number in range(1, 46)]

RULES = [
    *tables.recipient_rules(tuple(tables.BASES)),
    *tables.DELIVERY_RULES,
    *tables.DOMAIN_RULES,
    *tables.WISHES,
    *tables.DEFERRALS,
    *tables.TRIALS,
    *tables.MESSAGE_RULES,
    tables.PERMISSION_RULES[-2],
    tables.PERMISSION_MESSAGE_RULES[-1],
]


def _rows_of(source: str) -> set[str]:
    """Expand `A1 to A3, A17` to A1, A2, A3 and A17."""
    rows = set()
    for first, last in re.findall(r"\bA(\d+)(?: to A(\d+))?", source):
        rows |= {f"A{number}" for number in range(int(first), int(last or first) + 1)}
    return rows


def _named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_row_of_the_digest_is_covered_in_order() -> None:
    assert list(ROWS) == DIGEST
    assert all(len(cells) == 5 for cells in ROWS.values())


@pytest.mark.parametrize("row", DIGEST)
def test_a_row_names_files_and_tests_that_exist(row: str) -> None:
    _, state, _, code, tests = ROWS[row]
    if state == "not ours":
        assert (code, tests) == ("–", "–")
        assert f"**{row}**" in REASONS.partition("## Outside a relay's scope")[2]
        return
    assert re.match("(enforced|recorded)\\b", state)
    assert _named(code)
    for path in _named(code):
        assert (REPOSITORY / "smtpproxy" / path).is_file(), path
    assert _named(tests)
    for test in _named(tests):
        path, _, name = test.partition("::")
        text = (REPOSITORY / "tests" / path).read_text("utf-8")
        assert f"def {name}(" in text if name else "def test_" in text, test


@pytest.mark.parametrize("row", DIGEST)
def test_a_row_names_exactly_the_rules_that_cite_it(row: str) -> None:
    named = set(_named(ROWS[row][2]))
    assert named == {rule.name for rule in RULES if row in _rows_of(rule.source)}


def test_rows_that_are_not_ours_are_listed_in_the_reasons() -> None:
    told = set(re.findall(r"\*\*(A\d+)\*\*", REASONS))
    assert told == {row for row, cells in ROWS.items() if "not ours" in cells[1]}
