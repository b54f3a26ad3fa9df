"""docs/threat-model.md names existing tests, and exactly its open threats fail."""

import re
from functools import cache

from tests.kit.relay import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "threat-model.md").read_text()
STOPPED, _, OPEN = DOCUMENT.partition("\n## Known open\n")
_TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`")


def named(text: str) -> list[tuple[str, str]]:
    return sorted(set(_TEST.findall(text)))


@cache
def source(file: str) -> str:
    return (REPOSITORY / "tests" / file).read_text()


def expected_to_fail(file: str, test: str) -> bool:
    """Whether a test is marked xfail, directly or through a named mark."""
    text = source(file)
    marks = re.search(rf"((?:^@.*\n(?:^[ )].*\n)*)*)^(?:async )?def {test}\(", text, re.MULTILINE)
    if marks is None:
        return False
    names = re.findall(r"^(\w+) = pytest\.mark\.xfail", text, re.MULTILINE)
    return "pytest.mark.xfail" in marks[1] or any(f"@{name}" in marks[1] for name in names)


def test_every_named_test_exists() -> None:
    tests = named(DOCUMENT)
    assert len(tests) > 100
    missing = [(file, test) for file, test in tests if test and f"def {test}(" not in source(file)]
    assert missing == []
    assert [file for file, _ in tests if "def test_" not in source(file)] == []


def test_exactly_the_open_threats_are_expected_to_fail() -> None:
    failing = [each for each in named(DOCUMENT) if each[1] and expected_to_fail(*each)]
    assert failing == [each for each in named(OPEN) if each[1]]


def test_every_threat_has_a_defence_or_is_marked_open() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in STOPPED.partition("\n## Recipients")[2].splitlines()
        if line.startswith("| ") and not line.startswith("| they try")
    ]
    assert len(rows) > 30
    assert [row for row in rows if len(row) != 4 or not row[1]] == []
    assert [row[0] for row in rows if not row[2] and not row[3]] == []


def test_the_readme_links_to_it() -> None:
    assert "(docs/threat-model.md)" in (REPOSITORY / "README.md").read_text()
