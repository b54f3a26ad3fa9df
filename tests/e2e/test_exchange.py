"""Two companies, each with its store: a refusal told to one counts at the other."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.store.exchange.snapshot import SnapshotWriter
from smtpproxy.store.key_files import load_partner_key
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.store import address
from tests.kit.store import fill_database as fill
from tests.kit.upstream import FakeUpstream

SUBSCRIBER, CUSTOMER = address("consent"), address("customer")


def _config(folder: Path, hostname: str, **offers: Any) -> dict[str, Any]:
    streams = [{**each, **offers} if each["name"] == "offers" else each for each in STREAMS]
    return {
        "server": {"hostname": hostname},
        "stream": streams,
        "partner": [{"name": "other", "key_file": str(folder / "other.key")}],
    }


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    """The commands of the telling side and of the told side."""
    with FakeUpstream() as mta:
        teller, told = tmp_path / "teller", tmp_path / "told"
        for folder in (teller, told):
            folder.mkdir()
        one = RelayProcess(teller, mta.address, _config(teller, "teller.example"))
        config = _config(told, "told.example", max_snapshot_age="24h") | {"web": {}}
        two = RelayProcess(told, mta.address, config)
        one.must("partner", "key", "other")
        shutil.copy2(teller / "other.key", told / "other.key")
        fill(two.config["store"]["url"], told / "state", datetime.now(UTC))
        yield one, two


@pytest.fixture
def sides(
    commands: tuple[RelayProcess, RelayProcess],
) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    """The same, with a running relay on the told side."""
    with commands[1]:
        yield commands


def _snapshot(one: RelayProcess) -> Path:
    path = one.root / "snapshot.ndjson"
    one.must("suppress", "export", "--partner", "other", "--output", str(path))
    return path


def test_a_refusal_on_one_side_counts_on_the_other(
    sides: tuple[RelayProcess, RelayProcess],
) -> None:
    one, two = sides
    code, text = two.send(marketing(), SUBSCRIBER)
    assert (code, "450" in text or "4.7.0" in text) == (450, True)
    assert f"<{SUBSCRIBER}> deferred: list_stale (stream offers)" in text
    assert two.send(message(stream="receipts"), SUBSCRIBER)[0] == 250

    one.must("suppress", "add", SUBSCRIBER, "--origin", "objection", "--scope", "marketing")
    path = _snapshot(one)
    assert "people.example" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    told = json.loads(two.must("suppress", "import", "--partner", "other", str(path), "--json"))
    (offers,) = [one for one in told["outlook"]["streams"] if one["stream"] == "offers"]
    assert (told["outlook"]["people"], offers["by_reason"]) == (1, {"suppressed_external": 1})

    code, text = two.send(marketing(), SUBSCRIBER)
    assert code == 550
    assert "suppressed_external" in text
    assert two.send(marketing(), CUSTOMER)[0] == 250
    assert two.send(message(stream="receipts"), SUBSCRIBER)[0] == 250
    shown = json.loads(two.must("suppress", "show", SUBSCRIBER, "--json"))
    assert [found["origin"] for found in shown["suppressions"]] == ["external"]

    # Lifted on one side, it is missing from the next snapshot, and so gone on the other.
    one.must("suppress", "remove", SUBSCRIBER, "--all", "--reason", "the person asked")
    two.must("suppress", "import", "--partner", "other", str(_snapshot(one)))
    assert two.send(marketing(), SUBSCRIBER)[0] == 250

    # Decisions can be replayed from the record.
    refused = [r for r in records(two) if "suppressed_external" in json.dumps(r, default=str)]
    assert refused
    code, out, err = two.command("audit", "replay", "--rulebook", "fr", "--json")
    assert code == 0, out + err


def test_a_file_from_somebody_else_changes_nothing(
    sides: tuple[RelayProcess, RelayProcess],
) -> None:
    one, two = sides
    one.must("suppress", "add", SUBSCRIBER)
    path = _snapshot(one)
    two.must("suppress", "import", "--partner", "other", str(path))
    whole = path.read_bytes()
    head, row = whole.splitlines(keepends=True)
    for wrong, reason in (
        (head, "incomplete"),
        (head + row.replace(b"manual", b"bounce"), "digest is wrong"),
        (head.replace(b"teller", b"tellor") + row, "digest is wrong"),
        (b"address,scope\n", "not a snapshot"),
        (head + row[:40], "line 2"),
        (b"", "not a snapshot"),
    ):
        path.write_bytes(wrong)
        code, _, err = two.command("suppress", "import", "--partner", "other", str(path))
        assert (code, reason in err) == (1, True), err
    code, _, err = one.command("suppress", "import", "--partner", "other", str(_snapshot(one)))
    assert (code, "this side itself" in err) == (1, True)
    code, _, err = two.command("suppress", "import", "--partner", "nobody", str(path))
    assert (code, "there is no partner 'nobody'; known:" in err) == (2, True)
    assert two.send(marketing(), SUBSCRIBER)[0] == 550
    (taken,) = [value for name, value in two.metrics().items() if "snapshot_taken" in name]
    assert datetime.now(UTC).timestamp() - taken < 300


def test_another_key_voids_the_snapshot(sides: tuple[RelayProcess, RelayProcess]) -> None:
    one, two = sides
    one.must("suppress", "add", address("somebody"))
    path = _snapshot(one)
    two.must("suppress", "import", "--partner", "other", str(path))
    assert two.send(marketing(), SUBSCRIBER)[0] == 250
    two.terminate()
    (two.root / "other.key").unlink()
    two.must("partner", "key", "other")
    code, _, err = two.command("suppress", "import", "--partner", "other", str(path))
    assert (code, "another key" in err) == (1, True)
    assert two.command("partner", "show")[0] == 1
    two.start()
    assert "list_stale" in two.send(marketing(), SUBSCRIBER)[1]


def test_a_list_is_screened_without_a_store(commands: tuple[RelayProcess, RelayProcess]) -> None:
    one, two = commands
    one.must("suppress", "add", "anna+shop@people.example", "--origin", "unsubscribe")
    path = _snapshot(one)
    people = two.root / "list"
    people.write_text("anna@people.example\nbert@people.example\n")
    code, out, err = two.command("partner", "screen", "other", str(people), "--snapshot", str(path))
    assert (code, out.splitlines()[0]) == (1, "address,scope,origin,since")
    assert [line.split(",")[:3] for line in out.splitlines()[1:]] == [
        ["anna@people.example", "all", "unsubscribe"]
    ]
    assert "1 of 2" in err
    one.must("suppress", "add", "*.wild.example")
    path = _snapshot(one)
    people.write_text("bert@a.wild.example\nbert%wild.example@localhost\nbert@people.example\n")
    out = two.command("partner", "screen", "other", str(people), "--snapshot", str(path))[1]
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [
        "bert@a.wild.example", "bert%wild.example@localhost"
    ]  # fmt: skip
    people.write_text("bert@people.example\n")
    assert two.command("partner", "screen", "other", str(people), "--snapshot", str(path))[0] == 0


def test_coverage_is_reported(commands: tuple[RelayProcess, RelayProcess]) -> None:
    one, _ = commands
    partners = one.config.pop("partner")
    one.write_config()
    one.must("suppress", "add", SUBSCRIBER)
    one.must("suppress", "add", CUSTOMER)
    one.config["partner"] = partners
    one.write_config()
    code, out, err = one.command("suppress", "export", "--partner", "other")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "0 of 2 suppressions shared with other" in err
    assert "smtpproxy partner cover" in err
    known = one.root / "known"
    known.write_text(f"{SUBSCRIBER}\n")
    assert "1 of 2 suppressions can be shared" in one.must("partner", "cover", "--from", str(known))
    assert len(one.must("suppress", "export", "--partner", "other").splitlines()) == 2


def test_the_key_is_replaced_while_mail_flows(sides: tuple[RelayProcess, RelayProcess]) -> None:
    """The relay is never notified, and lets nobody through at any step."""
    one, two = sides
    one.must("suppress", "add", address("somebody"))
    two.must("suppress", "import", "--partner", "other", str(_snapshot(one)))
    two.must("suppress", "add", SUBSCRIBER)
    people = two.root / "people"
    people.write_text(f"{SUBSCRIBER}\n")
    for step in ((), ("--from", str(people)), ("--status",), ("--finish",), ("--status",)):
        two.command("suppress", "rekey", *step)
        assert "suppressed_manual" in two.send(marketing(), SUBSCRIBER)[1]
        assert two.send(marketing(), CUSTOMER)[0] == 250


def test_a_snapshot_from_the_future_is_not_fresh_and_yields_to_a_correct_one(
    sides: tuple[RelayProcess, RelayProcess],
) -> None:
    """As if the clocks of both machines had been years ahead at the import."""
    one, two = sides
    one.must("suppress", "add", SUBSCRIBER)
    path = _snapshot(one)
    two.must("suppress", "import", "--partner", "other", str(path))
    assert two.send(marketing(), CUSTOMER)[0] == 250
    ahead = datetime.now(UTC) + timedelta(days=5 * 366)
    with sqlite3.connect(two.root / "state" / "smtpproxy.db", timeout=30) as database:
        database.execute(
            "UPDATE partner_snapshot SET taken_at = ?", (int(ahead.timestamp() * 1e6),)
        )
    database.close()
    assert "list_stale" in two.send(marketing(), CUSTOMER)[1]
    assert two.send(marketing(), SUBSCRIBER)[0] == 550, "it must still refuse"
    code, out, _ = two.command("partner", "show")
    assert (code, "dated in the future" in out) == (1, True)
    two.must("suppress", "import", "--partner", "other", str(_snapshot(one)))
    assert two.send(marketing(), CUSTOMER)[0] == 250
    assert two.command("partner", "show")[0] == 0

    key = load_partner_key(one.root / "other.key")
    with closing(SnapshotWriter(key)) as writer, path.open("wb") as file:
        writer.write(file, partner="other", sender="teller.example", taken_at=ahead)
    people = two.root / "list"
    people.write_text(f"{SUBSCRIBER}\n")
    for command in (
        ("partner", "screen", "other", str(people), "--snapshot", str(path)),
        ("suppress", "import", "--partner", "other", str(path)),
    ):
        code, _, err = two.command(*command)
        assert (code, "taken in the future" in err) == (1, True), err
