"""Erasing one person: gone from the files for good, while the chain stays intact."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.events import Decided, JudgedRecipient
from smtpproxy.policy.model import Origin, RecipientFacts, Suppression
from smtpproxy.sinks.audit import anchor_scheduler
from smtpproxy.sinks.audit import erase as journal_erase
from smtpproxy.sinks.audit.chain import Kind
from smtpproxy.sinks.audit.erase import StillWritten, pseudonymise, repeat
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.sinks.audit.reader import find, read
from smtpproxy.sinks.audit.verify import verify
from tests.kit import traffic
from tests.kit.journal import Clock, decided, journal, relayed, segments

JEANNE, PAUL = "jeanne@example.org", "paul@example.org"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def mail(clock: Clock, *people: str, **over: Any) -> Decided:
    recipients = tuple(JudgedRecipient(p.replace("j", "J"), p, traffic.ALLOWED) for p in people)
    decision = msgspec.structs.replace(
        decided(clock).decision, recipients=(traffic.ALLOWED,) * len(people)
    )
    return decided(
        clock,
        recipients=recipients,
        decision=decision,
        facts={person: RecipientFacts() for person in people},
        **{"subject": "Hello", "reverse_path": "news@shop.example"} | over,
    )


async def write(log: Journal, clock: Clock, *entries: Decided, reply: str = "250 ok") -> None:
    for entry in entries:
        await log.commit(entry)
        log.outcome(msgspec.structs.replace(relayed(entry.id), reply=reply))
        clock.tick(seconds=1)


def text(folder: Path) -> str:
    """The content of all files of the journal."""
    return "".join(path.read_text() for path in folder.iterdir() if path.is_file()).casefold()


def sound(folder: Path) -> None:
    assert list(verify(folder).faults()) == []


async def test_a_person_is_gone_and_the_rest_is_unchanged(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=4_000)
    theirs = [mail(clock, JEANNE, subject="For Jeanne") for _ in range(3)]
    others = [mail(clock, PAUL) for _ in range(3)]
    for pair in zip(theirs, others, strict=True):
        await write(log, clock, *pair)
    log.close()
    before = {record.decided.id: record for record in read(folder)}
    assert pseudonymise(folder, JEANNE) == 3
    assert "jeanne" not in text(folder)
    assert "paul" in text(folder)
    sound(folder)
    after = {record.decided.id: record for record in read(folder)}
    assert list(before) == list(after)
    for entry in others:
        assert after[entry.id] == before[entry.id]
    for entry in theirs:
        record = after[entry.id]
        assert record.place == before[entry.id].place
        assert record.outcome == before[entry.id].outcome
        assert all(map(is_erased, record.decided.recipients))
        assert record.decided.decision.stream == entry.decision.stream
        assert record.decided.decision.recipients[0].basis == "consent"
        assert (record.decided.subject, record.decided.facts) == (None, {})
    assert list(read(folder, recipient=JEANNE)) == []


async def test_refusals_of_other_readings_of_their_address_are_erased(
    folder: Path, clock: Clock
) -> None:
    local, _, domain = JEANNE.partition("@")
    routed = f"{local}%{domain}@localhost"
    order = Suppression("all", Origin.MANUAL, clock.time, read_as=JEANNE)
    log = journal(folder, clock)
    await log.commit(decided(clock, routed, facts={routed: RecipientFacts((order,))}))
    log.close()
    assert pseudonymise(folder, JEANNE) == 1
    assert "jeanne" not in text(folder)
    sound(folder)


@pytest.mark.parametrize(
    "name",
    [
        "jeanne%example.org@shop.example",
        "example.org!jeanne@shop.example",
        '"jeanne@example.org"@shop.example',
        "jeanne%example.org%b.example@shop.example",
    ],
)
async def test_records_with_only_another_reading_of_their_address_are_erased(
    folder: Path, clock: Clock, name: str
) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, name), reply=f"250 to <{name}>")
    await write(log, clock, mail(clock, PAUL), mail(clock, "jeanne%example.com@shop.example"))
    log.close()
    assert pseudonymise(folder, JEANNE) > 0
    left = text(folder)
    assert json.dumps(name) not in left
    assert "example.org" not in left.replace(PAUL, "")
    assert PAUL in left
    assert "jeanne%example.com" in left
    sound(folder)


async def test_only_their_part_of_a_message_to_several_is_erased(
    folder: Path, clock: Clock
) -> None:
    log = journal(folder, clock)
    entry = mail(clock, JEANNE, PAUL)
    await write(log, clock, entry)
    log.close()
    assert pseudonymise(folder, JEANNE) == 1
    (record,) = find(folder, entry.id)
    first, second = record.decided.recipients
    assert is_erased(first)
    assert second == entry.recipients[1]
    assert record.decided.subject == "Hello"
    assert list(record.decided.facts) == [PAUL]
    sound(folder)
    assert pseudonymise(folder, PAUL) == 1
    (record,) = find(folder, entry.id)
    assert all(map(is_erased, record.decided.recipients))
    assert record.decided.subject is None, "now no known person received the message"
    sound(folder)


async def test_fields_of_the_message_that_name_them_are_erased(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    verp = mail(clock, JEANNE, PAUL, reverse_path="b+JEANNE@example.org@shop.example")
    await write(log, clock, verp)
    log.close()
    assert pseudonymise(folder, JEANNE) == 1
    assert "jeanne" not in text(folder)
    sound(folder)


async def test_upstream_replies_that_name_them_are_erased(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=1)  # the answer is in the next file
    sole, mixed = mail(clock, JEANNE), mail(clock, JEANNE, PAUL)
    await write(log, clock, sole, mixed, reply="550 5.1.1 <Jeanne@example.org> unknown")
    await write(log, clock, mail(clock, PAUL), reply="550 5.1.1 <paul@example.org> unknown")
    log.close()
    assert pseudonymise(folder, JEANNE) == 4
    assert "jeanne" not in text(folder)
    (record,) = find(folder, sole.id)
    assert record.outcome is not None
    assert (record.outcome.code, record.outcome.reply) == (250, None)
    assert "550 5.1.1 <paul@example.org> unknown" in text(folder)
    sound(folder)


async def test_erasing_again_covers_newer_records(folder: Path, clock: Clock) -> None:
    for expected in (2, 1):
        log = journal(folder, clock)
        await write(log, clock, *[mail(clock, JEANNE) for _ in range(expected)])
        log.close()
        assert pseudonymise(folder, JEANNE) == expected
        assert pseudonymise(folder, JEANNE) == 0
        sound(folder)


async def test_a_digest_cannot_be_guessed_from_an_address_list(folder: Path, clock: Clock) -> None:
    """Two erased lines with the same content have nothing in common."""
    log = journal(folder, clock)
    await write(log, clock, *[mail(clock, JEANNE) for _ in range(2)])
    log.close()
    pseudonymise(folder, JEANNE)
    digests = [
        part
        for line in segments(folder)[0].read_bytes().splitlines()
        for part in json.loads(line)["personal"]
    ]
    assert len(digests) == len(set(digests)) == 2
    assert all(len(digest) == 64 for digest in digests)


async def test_owner_permissions_and_time_of_a_file_are_kept(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, JEANNE))
    log.close()
    (path,) = segments(folder)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    before = path.stat()
    pseudonymise(folder, JEANNE)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime,
    )
    assert after.st_ino != before.st_ino


async def test_a_torn_end_that_names_them_is_removed(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, JEANNE))
    log.close()
    (path,) = segments(folder)
    with path.open("ab") as file:
        file.write(b'{"hash":"0","personal":[{"canonical":"jeanne@example.org"')
    clock.tick(seconds=1)
    log = journal(folder, clock)
    await write(log, clock, mail(clock, PAUL))
    log.close()
    pseudonymise(folder, JEANNE)
    assert "jeanne" not in text(folder)
    sound(folder)


@pytest.mark.parametrize(("stop", "call"), [("note", 5), ("note", 6), ("replace", 3), ("open", 3)])
async def test_the_next_call_completes_an_erasure_after_a_crash(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, stop: str, call: int
) -> None:
    log = journal(folder, clock, segment_size=1)
    await write(
        log, clock, *[mail(clock, JEANNE) for _ in range(4)], reply="550 <jeanne@example.org>"
    )
    log.close()
    count = len(list(read(folder)))
    calls = []

    def crash(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    target, name = (journal_erase.anchors, stop) if stop == "note" else (Path, stop)
    real = getattr(target, name)
    with monkeypatch.context() as patch:
        patch.setattr(target, name, crash)
        with pytest.raises(KeyboardInterrupt):
            pseudonymise(folder, JEANNE)
    sound(folder)
    pseudonymise(folder, JEANNE)
    assert "jeanne" not in text(folder)
    assert not list(folder.glob(".*"))  # noqa: ASYNC240
    assert len(list(read(folder))) == count
    sound(folder)


async def test_a_restored_copy_is_erased_again_even_after_a_crash(
    folder: Path, clock: Clock
) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, JEANNE))
    log.close()
    (path,) = segments(folder)
    copied = path.read_bytes()
    pseudonymise(folder, JEANNE, now=clock.now)
    path.write_bytes(copied)
    (folder / f".{path.name}.erasing").write_bytes(copied)  # from a restore that was killed
    repeat(folder)
    assert JEANNE not in text(folder)
    assert list(verify(folder).faults()) == []


async def test_a_damaged_line_is_left_for_verify_to_find(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, JEANNE), mail(clock, JEANNE))
    log.close()
    (path,) = segments(folder)
    path.write_bytes(path.read_bytes().replace(b'"relayed":true', b'"relayed":trux', 1))
    assert pseudonymise(folder, JEANNE) == 1
    assert [finding.kind for finding in verify(folder).faults()] == [Kind.CHANGED]


def test_an_empty_folder_has_nothing_to_erase(folder: Path) -> None:
    assert pseudonymise(folder, JEANNE) == 0
    assert not folder.exists()


# with a running relay


async def test_a_running_journal_switches_files_and_goes_on(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchor_scheduler, "CHECK_SECONDS", 0.02)
    log = journal(folder, clock)
    theirs = mail(clock, JEANNE)
    await write(log, clock, theirs)
    count = await asyncio.to_thread(pseudonymise, folder, JEANNE, now=clock.now)
    assert count == 1
    assert "jeanne" not in text(folder)
    after = mail(clock, PAUL)
    await write(log, clock, after)
    log.close()
    assert {record.decided.id for record in read(folder)} == {theirs.id, after.id}
    assert all(record.outcome is not None for record in read(folder))
    assert len(segments(folder)) == 2
    sound(folder)


async def test_an_unaffected_journal_is_left_alone(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await write(log, clock, mail(clock, PAUL))
    assert pseudonymise(folder, JEANNE) == 0
    assert len(segments(folder)) == 1
    log.close()


async def test_a_relay_that_does_not_release_its_file_is_reported(
    folder: Path, clock: Clock
) -> None:
    """Its loop is blocked here. The files it left earlier are erased all the same."""
    log = journal(folder, clock)
    await write(log, clock, mail(clock, JEANNE))
    log.rotate()
    await write(log, clock, mail(clock, JEANNE))
    with pytest.raises(StillWritten, match=segments(folder)[1].name):
        pseudonymise(folder, JEANNE, timeout=0.2)
    assert len(list(read(folder, recipient=JEANNE))) == 1
    log.close()
    assert pseudonymise(folder, JEANNE) == 1
    sound(folder)


async def test_no_line_is_lost_while_a_relay_goes_on_writing(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=50_000)
    written: list[Decided] = []

    async def go_on() -> None:
        while True:
            entry = mail(clock, JEANNE, PAUL) if len(written) % 3 else mail(clock, PAUL)
            await write(log, clock, entry)
            written.append(entry)
            await asyncio.sleep(0.001)

    writing = asyncio.create_task(go_on())
    for _ in range(3):
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(pseudonymise, folder, JEANNE, now=clock.now) > 10
    writing.cancel()
    log.close()
    pseudonymise(folder, JEANNE)
    assert [record.decided.id for record in sorted(read(folder), key=lambda r: r.decided.id)] == [
        entry.id for entry in written
    ]
    assert "jeanne" not in text(folder)
    sound(folder)


# erasing anybody in any order


PEOPLE = [f"{name}@x.example" for name in ("ann", "bea", "cleo")]
ANYBODY = st.sampled_from(PEOPLE)


@settings(max_examples=25, deadline=None)
@given(
    messages=st.lists(
        st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=4), min_size=1, max_size=8
    ),
    erased=st.lists(ANYBODY, max_size=3),
    size=st.sampled_from([1, 3_000, 1_000_000]),
)
def test_erased_people_are_gone_others_stay_and_the_chain_holds(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[list[str]],
    erased: list[str],
    size: int,
) -> None:
    folder, clock = tmp_path_factory.mktemp("erase") / "audit", Clock()
    entries = [mail(clock, *people) for people in messages]

    async def fill() -> None:
        log = journal(folder, clock, segment_size=size)
        await write(log, clock, *entries)
        log.close()

    asyncio.run(fill())
    before = {record.decided.id: record for record in read(folder)}
    for person in erased:
        pseudonymise(folder, person)
    sound(folder)
    after = {record.decided.id: record for record in read(folder)}
    assert after.keys() == before.keys()
    for id, record in after.items():
        for old, new in zip(before[id].decided.recipients, record.decided.recipients, strict=True):
            assert is_erased(new) if old.canonical in erased else new == old
    for person in erased:
        assert person not in text(folder)
    shutil.rmtree(folder.parent)
