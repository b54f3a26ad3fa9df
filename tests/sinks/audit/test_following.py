"""Matches of suppressions are read from the journal, each row once."""

from datetime import timedelta
from pathlib import Path

import pytest

from smtpproxy.policy.model import Origin, RecipientFacts, Suppression
from smtpproxy.sinks.audit.chain import NotALine, number_of
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.sinks.audit.expire import expire
from smtpproxy.sinks.audit.following import Matches, Tail, matches
from tests.kit.journal import START, Clock, decided, journal, segments

ORDER = Suppression("all", Origin.COMPLAINT, START)
MATCHED = RecipientFacts((ORDER,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def write(folder: Path, clock: Clock, *people: str, worker: int = 0) -> None:
    """Write a file with a decision for each; a name ending with ! is suppressed."""
    log = journal(folder, clock, worker)
    for each in people:
        name = f"{each.removesuffix('!')}@people.example"
        facts = {name: MATCHED} if each.endswith("!") else {}
        await log.commit(decided(clock, name, facts=facts))
        clock.tick(hours=1)
    log.close()


def read(
    folder: Path, after: dict[int, int] | None = None
) -> tuple[dict[str, int], dict[int, int]]:
    """Hours since START of each person's newest match, and the position reached."""
    found: dict[str, int] = {}
    upto = dict(after or {})
    for part in matches(folder, after or {}):
        upto[part.slot] = part.n
        for name, at in part.newest.items():
            hours = (at - START) // timedelta(hours=1)
            found[name.partition("@")[0]] = max(hours, found.get(name.partition("@")[0], 0))
    return found, upto


async def test_the_newest_match_of_each_counts(folder: Path, clock: Clock) -> None:
    await write(folder, clock, "anna!", "paul", "eve!", "anna!")
    assert read(folder)[0] == {"anna": 3, "eve": 2}


async def test_nothing_is_read_twice_and_nothing_left_out(folder: Path, clock: Clock) -> None:
    """In new files, and further on in the one where reading stopped."""
    await write(folder, clock, "anna!")
    found, upto = read(folder)
    assert found == {"anna": 0}
    await write(folder, clock, "eve!", "paul")
    await write(folder, clock, "anna!", worker=1)
    found, upto = read(folder, upto)
    assert found == {"eve": 1, "anna": 3}
    assert read(folder, upto) == ({}, upto)


async def test_files_of_a_running_relay_are_read_as_far_as_written(
    folder: Path, clock: Clock
) -> None:
    log = journal(folder, clock)
    upto: dict[int, int] = {}
    for hours in range(3):
        facts = {"anna@people.example": MATCHED}
        await log.commit(decided(clock, "anna@people.example", facts=facts))
        found, upto = read(folder, upto)
        assert found == {"anna": hours}
        clock.tick(hours=1)
    with segments(folder)[0].open("ab") as file:
        file.write(b'{"hash":"torn')
    assert read(folder, upto) == ({}, upto)
    log.close()


async def test_erasure_and_retention_do_not_move_the_position(folder: Path, clock: Clock) -> None:
    """Rows are counted, not octets: files get rewritten and deleted."""
    await write(folder, clock, "anna!", "eve!")
    _, upto = read(folder)
    await write(folder, clock, "eve!", "paul!", "anna!")
    pseudonymise(folder, "anna@people.example", now=clock.now)
    expire(folder, START + timedelta(hours=2), now=clock.now)
    assert len(segments(folder)) == 1
    assert read(folder, upto)[0] == {"eve": 2, "paul": 3}


async def test_another_journal_is_read_from_its_beginning(folder: Path, clock: Clock) -> None:
    await write(folder, clock, "anna!")
    assert read(folder, {0: 1_000_000})[0] == {"anna": 0}


async def test_a_long_journal_is_read_in_parts(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    for number in range(4_500):
        name = f"p{number}@people.example"
        await log.commit(decided(clock, name, facts={name: MATCHED}))
    log.close()
    parts = list(matches(folder, {}))
    assert len(parts) >= 3
    assert sum(len(part.newest) for part in parts) == 4_500
    assert isinstance(parts[0], Matches)
    assert next(iter(matches(folder, {0: parts[0].n}))).n == parts[1].n


def test_without_a_journal_there_are_no_matches(folder: Path) -> None:
    assert list(matches(folder, {})) == []


async def test_a_file_that_grew_is_read_from_the_last_position(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock, "anna@people.example"))
    tail, upto = Tail(folder), {0: 0}

    def new_rows() -> list[int]:
        found = [n for _, rows in tail.unread(upto) for _, n, _ in rows]
        upto[0] = found[-1] if found else upto[0]
        return found

    assert new_rows() == [1, 2]
    monkeypatch.setattr("smtpproxy.sinks.audit.following._from", None)  # not from the beginning
    for number in (3, 4):
        assert tail.backlog(upto) == (0, None)
        await log.commit(decided(clock, "paul@people.example"))
        assert tail.backlog(upto) == (1, START)
        assert new_rows() == [number]
    log.close()


@pytest.mark.parametrize("kept", ["anna", "x" * 200])
async def test_no_row_is_missed_after_an_erasure_replaced_the_file(
    folder: Path, clock: Clock, kept: str
) -> None:
    """Its rows have moved: an erased part is shorter or longer than its digest."""
    log = journal(folder, clock)
    for person in ("anna", "paul"):
        await log.commit(decided(clock, f"{person}@people.example", subject=kept))
    tail = Tail(folder)
    assert [n for _, rows in tail.unread({}) for _, n, _ in rows] == [1, 2, 3]
    for _ in range(3):
        await log.commit(decided(clock, "eve@people.example", subject=kept))
    log.close()
    pseudonymise(folder, "anna@people.example", now=clock.now)
    pseudonymise(folder, "paul@people.example", now=clock.now)
    assert [n for _, rows in tail.unread({0: 3}) for _, n, _ in rows] == [4, 5, 6]


@pytest.mark.parametrize("number", [b"9" * 5_000, b"x", b""])
def test_a_line_without_a_number_is_ignored(number: bytes) -> None:
    with pytest.raises(NotALine):
        number_of(b'{"hash":"' + b"0" * 64 + b'","n":' + number + b',"entry":{},"personal":[]}\n')
