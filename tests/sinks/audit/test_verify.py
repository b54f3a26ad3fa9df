"""`verify` finds any tampering with the files of a journal, and says where."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.chain import MEANING, Chain, Kind, Report, take_apart
from smtpproxy.sinks.audit.verify import verify
from tests.kit.journal import Clock, decided, journal, relayed, segments
from tests.kit.soak import times


async def _written(folder: Path) -> None:
    """Two workers with three files each, and anchors in between and at the end."""
    clock = Clock()
    for start in range(3):
        logs = [journal(folder, clock, worker) for worker in range(2)]
        for number in range(6):
            for log in logs:
                entry = decided(clock, to=f"{start}.{number}@b.example")
                await log.commit(entry)
                log.outcome(relayed(entry.id))
                clock.tick(seconds=1)
            if number == 3:
                anchors.take(folder, "asked", clock.now)
        for log in logs:
            log.close()
        clock.tick(minutes=1)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact") / "audit"
    asyncio.run(_written(folder))
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "audit"))


def files(folder: Path, worker: int = 0) -> list[Path]:
    return [path for path in segments(folder) if path.stem.endswith(f"-{worker}")]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def begun(path: Path) -> datetime:
    return datetime.fromisoformat(json.loads(lines(path)[0])["entry"]["at"])


def write(path: Path, changed: list[bytes]) -> None:
    path.write_bytes(b"".join(changed))


def faults(report: Report) -> list[tuple[Kind, str, int | None]]:
    return [(finding.kind, finding.file, finding.line) for finding in report.faults()]


def test_an_untouched_journal_is_sound(folder: Path) -> None:
    report = verify(folder)
    assert faults(report) == []
    assert (report.files, report.decisions) == (6, 36)
    assert report.anchors >= 9
    assert report.compared >= 6
    assert {slot: head.n for slot, head in report.heads.items()} == {
        slot: json.loads(lines(files(folder, slot)[-1])[-1])["n"] for slot in (0, 1)
    }


def test_the_program_in_the_document_follows_the_chain(folder: Path) -> None:
    """docs/audit.md: the program uses nothing of the product."""
    document = (Path(__file__).parents[3] / "docs" / "audit.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", document, re.M | re.S)

    def check() -> int:
        names = [str(path) for path in files(folder)]
        return subprocess.run([sys.executable, "-c", program, *names], check=False).returncode

    assert check() == 0
    hide = take_apart(lines(files(folder)[1])[3]).without({0})
    on_lines(lambda all_lines: [*all_lines[:3], hide, *all_lines[4:]])(folder)
    assert check() == 0, "an erasure must not break the chain"
    on_lines(replaced(b'"action":"allow"', b'"action":"refuse"'))(folder)
    assert check() == 1


# single acts of tampering, and how each is reported

MIDDLE = 4


class Tampering(Struct, frozen=True):
    name: str
    act: Callable[[Path], None]
    kind: Kind
    file: int | None = 1  # a file of worker 0; None: anchors.ndjson
    line: int | None = MIDDLE + 1


def on_lines(change: Callable[[list[bytes]], list[bytes]], file: int = 1) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = files(folder)[file]
        write(path, change(lines(path)))

    return act


def replaced(old: bytes, new: bytes, line: int = MIDDLE) -> Callable[[list[bytes]], list[bytes]]:
    def change(all_lines: list[bytes]) -> list[bytes]:
        assert old in all_lines[line]
        return [*all_lines[:line], all_lines[line].replace(old, new, 1), *all_lines[line + 1 :]]

    return change


def rewritten(all_lines: list[bytes]) -> list[bytes]:
    """Change a verdict and recompute every hash from there on."""
    chain = Chain(take_apart(all_lines[MIDDLE - 1]).head)
    new = []
    for line in replaced(b'"action":"allow"', b'"action":"refuse"')(all_lines)[MIDDLE:]:
        sealed = take_apart(line)
        before, _, entry = sealed.rest.removesuffix(b',"personal":[').partition(b'"entry":')
        new.append(chain.seal(entry, sealed.parts, before.split(b",", 2)[2]))
    return [*all_lines[:MIDDLE], *new]


def hidden(all_lines: list[bytes]) -> list[bytes]:
    line = take_apart(all_lines[MIDDLE]).without({0})
    return [*all_lines[:MIDDLE], line, *all_lines[MIDDLE + 1 :]]


def on_anchors(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "anchors.ndjson"
        write(path, change(lines(path)))

    return act


def remove(number: int) -> Callable[[Path], None]:
    return lambda folder: files(folder)[number].unlink()


def swap_names(folder: Path) -> None:
    first, second = files(folder)[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def drop(line: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda all_lines: all_lines[:line] + all_lines[line + 1 :]


def end(all_lines: list[bytes], count: int = 2) -> list[bytes]:
    return all_lines[:-count]


TAMPERINGS = [
    Tampering(
        "a verdict", on_lines(replaced(b'"action":"allow"', b'"action":"refuse"')), Kind.CHANGED
    ),
    Tampering("an address", on_lines(replaced(b"@b.example", b"@c.example")), Kind.CHANGED),
    Tampering("a time", on_lines(replaced(b"2026-03", b"2026-02")), Kind.CHANGED),
    Tampering("a salt", on_lines(replaced(b'"salt":"', b'"salt":"0')), Kind.CHANGED),
    Tampering("a space", on_lines(replaced(b'"n":', b'"n": ')), Kind.CHANGED),
    Tampering("a line end", on_lines(replaced(b"\n", b" ")), Kind.UNREADABLE),
    Tampering("a NUL", on_lines(replaced(b'"entry"', b'"ent\0y"')), Kind.CHANGED),
    Tampering("a line dropped", on_lines(drop(MIDDLE)), Kind.MISSING),
    Tampering("a first line dropped", on_lines(drop(0)), Kind.MISSING, line=1),
    Tampering("a file's last line dropped", on_lines(lambda a: end(a, 1)), Kind.MISSING, 2, 1),
    Tampering("two swapped", on_lines(lambda a: [*a[:3], a[4], a[3], *a[5:]]), Kind.REORDERED),
    Tampering("one copied", on_lines(lambda a: [*a[:4], a[2], *a[4:]]), Kind.INSERTED),
    Tampering(
        "one copied for another",
        on_lines(lambda a: [*a[:3], *a[4:6], a[2], *a[6:]]),
        Kind.MISSING,
        line=4,
    ),
    Tampering("the end cut off", on_lines(end, 2), Kind.CUT, 2, None),
    Tampering(
        "the end cut within a line", on_lines(lambda a: [*a[:-1], a[-1][:-9]], 2), Kind.CUT, 2, None
    ),
    Tampering("a file emptied", on_lines(lambda a: []), Kind.MISSING, 2, 1),
    Tampering("octets added", on_lines(lambda a: [*a, b"x"]), Kind.INSERTED, line=None),
    Tampering("the first file removed", remove(0), Kind.MISSING, 0, 1),
    Tampering("a file removed", remove(1), Kind.MISSING, 1, 1),
    Tampering("the last file removed", remove(2), Kind.CUT, 1, None),
    Tampering("files swapped", swap_names, Kind.MISPLACED, 0, 1),
    Tampering("the rest rewritten", on_lines(rewritten), Kind.REWRITTEN, line=None),
    Tampering("personal data hidden", on_lines(hidden), Kind.HIDDEN, line=None),
    Tampering(
        "an anchor edited", on_anchors(replaced(b'"why":"', b'"why":"t', 3)), Kind.ANCHOR, None, 4
    ),
    Tampering(
        "the last anchor edited",
        on_anchors(replaced(b'"n":', b'"n":1', -1)),
        Kind.ANCHOR,
        None,
        None,
    ),
    Tampering("an anchor dropped", on_anchors(drop(3)), Kind.ANCHOR, None, 4),
    Tampering("all anchors cut", on_anchors(lambda a: []), Kind.ANCHOR, line=1),
]


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.name)
def test_tampering_is_located(folder: Path, tampering: Tampering) -> None:
    expected = "anchors.ndjson"
    names = [path.name for path in files(folder)]
    tampering.act(folder)
    report = verify(folder)
    if tampering.file is not None:
        left = [path.name for path in files(folder)]
        expected = (left if len(left) < len(names) else names)[tampering.file]
    found = faults(report)
    assert report.wrong >= 1
    places = [(kind, file) for kind, file, _ in found]
    assert (tampering.kind, expected) in places, found
    if tampering.line is not None:
        assert (tampering.kind, expected, tampering.line) in found
    if tampering.kind in (Kind.CHANGED, Kind.REORDERED, Kind.INSERTED, Kind.HIDDEN):
        assert len(found) == 1, "one act, one finding"


def edited(content: bytes, random: Random) -> bytes:
    """One edit of any kind, anywhere."""
    position = random.randrange(len(content))
    all_lines = content.splitlines(keepends=True)
    number = random.randrange(len(all_lines))
    other = random.randrange(len(all_lines))
    kind = random.choice(["flip", "delete", "insert", "cut", "drop", "copy", "swap", "splice"])
    if kind == "flip":
        flipped = content[position] ^ (1 << random.randrange(8))
        return content[:position] + bytes([flipped]) + content[position + 1 :]
    if kind == "delete":
        return content[:position] + content[position + random.randint(1, 40) :]
    if kind == "insert":
        return content[:position] + random.randbytes(random.randint(1, 40)) + content[position:]
    if kind == "cut":
        return content[:position]
    if kind == "drop":
        del all_lines[number]
    elif kind == "copy":
        all_lines.insert(other, all_lines[number])
    elif kind == "swap":
        all_lines[number], all_lines[other] = all_lines[other], all_lines[number]
    else:
        all_lines[number] = all_lines[other]
    return b"".join(all_lines)


@settings(
    max_examples=times(50, 3_000), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.integers(0, 2**32))
def test_any_single_edit_is_found(
    intact: Path, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """In the journal, or in the anchors if the last one is also kept elsewhere."""
    random = Random(seed)
    folder = Path(shutil.copytree(intact, tmp_path_factory.mktemp("edit") / "audit"))
    path = random.choice([*segments(folder), folder / "anchors.ndjson"])
    content = path.read_bytes()
    changed = edited(content, random)
    path.write_bytes(changed)
    newest = anchors.newest(intact)
    assert newest is not None
    report = verify(folder, kept=[newest.head])
    assert (report.wrong > 0) == (changed != content), path.name
    shutil.rmtree(folder.parent)


def test_an_anchor_kept_elsewhere_exposes_a_rebuilt_journal(folder: Path) -> None:
    """Somebody with write access can also recompute every hash."""
    newest = anchors.newest(folder)
    assert newest is not None
    shutil.rmtree(folder)
    asyncio.run(_written(folder))
    assert verify(folder).wrong == 0
    assert faults(verify(folder, kept=[newest.head])) == [(Kind.ANCHOR, "anchors.ndjson", None)]


def test_a_period_is_verified_by_itself(folder: Path) -> None:
    first, second, third = files(folder)
    write(first, lines(first)[:-3])
    write(third, lines(third)[:-3])
    since, until = begun(second) + timedelta(seconds=2), begun(third)
    report = verify(folder, since=since, until=until)
    assert faults(report) == []
    assert report.files == 2
    assert verify(folder, since=since).wrong == 1
    assert verify(folder, until=until).wrong == 1


def test_a_read_only_copy_can_be_verified(folder: Path) -> None:
    (folder / "maintenance.lock").touch()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert verify(folder).wrong == 0
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_finding_is_explained(kind: Kind) -> None:
    document = (Path(__file__).parents[3] / "docs" / "audit.md").read_text("utf-8")
    assert f"`{kind}`" in document
    assert MEANING[kind].endswith(".")


def test_an_empty_folder_is_sound(tmp_path: Path) -> None:
    assert verify(tmp_path / "audit") == Report()
