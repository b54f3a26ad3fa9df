"""`smtpproxy audit verify` and `audit anchor`: a running relay, and tampering with its files."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from smtpproxy.events import UlidFactory
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.chain import Chain, take_apart
from smtpproxy.sinks.audit.lines import LineMaker
from tests.cli.conftest import Bench
from tests.kit import audit, messages
from tests.kit.journal import Clock, decided, segments
from tests.kit.ports import wait_for
from tests.kit.store import address
from tests.kit.toml import to_toml


@pytest.fixture
def copied(bench: Bench, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the relay's audit log after some mail, and a configuration for it."""
    for name in ("consent", "complained", "nothing"):
        bench.relay.send(messages.marketing(), address(name))
    folder = audit.folder(bench.relay)
    wait_for(lambda: (folder / "anchors.ndjson").exists(), "an anchor")
    shutil.copytree(folder, tmp_path / "audit")
    path = tmp_path / "copy.toml"
    server = {**bench.relay.config["server"], "state_dir": str(tmp_path)}
    path.write_text(to_toml({**bench.relay.config, "server": server}))
    return tmp_path / "audit", path


def verified(bench: Bench, path: Path, *arguments: str, code: int) -> Any:
    out, _ = bench.run("audit", "verify", "--json", *arguments, code=code, config_path=path)
    return json.loads(out)


def wrong(report: Any) -> list[Any]:
    return [finding for finding in report["findings"] if finding["wrong"]]


def test_the_record_of_a_running_relay_is_sound(bench: Bench) -> None:
    bench.relay.send(messages.marketing(), address("consent"))
    found = bench.json("audit", "verify", code=0)
    assert (found["sound"], found["wrong"]) == (True, 0)
    assert found["decisions"] >= 1
    out, err = bench.run("audit", "verify", code=0)
    assert "nothing is wrong" in out
    assert "worker 0: verified up to row" in out
    assert err == ""


def test_a_changed_verdict_is_found_and_located(bench: Bench, copied: tuple[Path, Path]) -> None:
    folder, path = copied
    file = segments(folder)[0]
    lines = file.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines, 1) if b"suppressed_complaint" in line)
    id = json.loads(lines[number - 1])["entry"]["id"]
    lines[number - 1] = lines[number - 1].replace(b"suppressed_complaint", b"suppressed_bounce")
    file.write_bytes(b"".join(lines))
    (finding,) = wrong(verified(bench, path, code=1))
    assert (finding["kind"], finding["wrong"]) == ("changed", True)
    assert (finding["file"], finding["line"], finding["id"]) == (file.name, number, id)
    assert finding["meaning"].startswith("Somebody edited the line")
    out, _ = bench.run("audit", "verify", code=1, config_path=path)
    assert f"{file.name}, line {number}, row {finding['row']}, decision {id}: changed: " in out
    assert out.endswith("wrong: 1\n")


def test_a_truncated_end_is_found_by_either_anchor(
    bench: Bench, copied: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, path = copied
    kept = tmp_path / "ticket.txt"
    out, _ = bench.run("audit", "anchor", "--json", code=0, config_path=path)
    kept.write_text(f"Please keep this:\n{out}")
    assert verified(bench, path, "--anchors", str(kept), code=0)["compared"] >= 1
    file = segments(folder)[0]
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))
    (finding,) = wrong(verified(bench, path, code=1))
    assert finding["kind"] == "cut"
    (folder / "anchors.ndjson").unlink()
    findings = wrong(verified(bench, path, "--anchors", str(kept), code=1))
    assert [finding["kind"] for finding in findings][-1] == "anchor"


def test_the_log_can_serve_as_a_copy_of_the_anchors(
    bench: Bench, copied: tuple[Path, Path], tmp_path: Path
) -> None:
    """Lines from a log collector can be passed unchanged."""
    folder, path = copied
    newest = anchors.newest(folder)
    assert newest is not None
    log = tmp_path / "collected.log"
    log.write_text(
        "".join(
            f"Nov 21 18:00:00 relay smtpproxy[1]: {json.dumps(entry)}\n"
            for entry in bench.relay.log
            if entry.get("n", 0) <= newest.n
        )
    )
    assert verified(bench, path, "--anchors", str(log), code=0)["compared"] >= 1
    text = log.read_text()
    log.write_text(text.replace(newest.hash, newest.hash[::-1]))
    assert verified(bench, path, "--anchors", str(log), code=1)["wrong"] == 1


def test_rows_after_the_last_anchor_are_reported_as_unproven(
    bench: Bench, copied: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, path = copied
    kept = tmp_path / "collected.log"
    out, _ = bench.run("audit", "anchor", "--json", code=0, config_path=path)
    kept.write_text(out)
    n = verified(bench, path, "--anchors", str(kept), code=0)["unproven"]
    assert n == 0
    source = segments(folder)[-1]
    line = source.read_bytes().splitlines(keepends=True)[-1]
    chain, entry = Chain(take_apart(line).head), decided(Clock(), to="ann@else.example")
    now = datetime.now(UTC)
    entry = msgspec.structs.replace(entry, id=new_id(now), at=now)
    with source.open("ab") as file:
        file.write(chain.seal(*LineMaker().decision(entry)))
    found = verified(bench, path, "--anchors", str(kept), code=0)
    assert (found["sound"], found["unproven"], found["witness"]["kept"]) == (True, 1, True)
    out, _ = bench.run("audit", "verify", code=0, config_path=path)
    assert "1 row after it is unproven" in out
    assert "which is only on this machine" in out
    anchors = ["--anchors", str(kept)]
    out, _ = bench.run("audit", "show", entry.id, *anchors, code=0, config_path=path)
    assert "UNPROVEN: it comes after the last anchor" in out
    out, _ = bench.run("audit", "show", "--json", entry.id, code=0, config_path=path)
    assert json.loads(out)[0]["proof"]["state"] == "unproven"
    _, err = bench.run("audit", "show", code=0, config_path=path)
    assert err == "1 decision is after the last anchor: unproven.\n"
    state = Path(bench.relay.config["server"]["state_dir"])
    shutil.copy(state / "suppression.key", tmp_path)
    for lang, words in (("en", "Unproven: it comes after"), ("fr", "Décision non prouvée")):
        out, _ = bench.run(
            "explain", "--id", entry.id, "--lang", lang, *anchors, code=0, config_path=path
        )
        assert words in out.replace("\xa0", " ").replace("\u202f", " ")
    out, _ = bench.run(
        "contact", "export", "ann@else.example", "--evidence", *anchors, code=0, config_path=path
    )
    assert "UNPROVEN" in out
    assert "Rows after that anchor, which are unproven: 1." in out
    _, err = bench.run("audit", "show", *anchors, code=2, config_path=path)
    assert "--anchors needs an ID" in err


def new_id(at: datetime) -> str:
    return UlidFactory(lambda: int(at.timestamp() * 1000), os.urandom)()


def test_an_anchor_as_text(bench: Bench) -> None:
    bench.relay.send(messages.marketing(), address("consent"))
    out, _ = bench.run("audit", "anchor", code=0)
    first, second, *_ = out.splitlines()
    assert first.startswith("anchor ")
    assert len(first.rpartition(" ")[2]) == 64
    assert second.startswith("worker 0: row ")


def test_wrong_usage_is_explained(bench: Bench, tmp_path: Path) -> None:
    empty = tmp_path / "log"
    empty.write_text('{"event":"ready"}\nnot json {\n')
    _, err = bench.run("audit", "verify", "--anchors", str(empty), code=2)
    assert "no anchor in it" in err
    server = {**bench.relay.config["server"], "state_dir": str(tmp_path)}
    path = tmp_path / "other.toml"
    path.write_text(to_toml({**bench.relay.config, "server": server}))
    _, err = bench.run("audit", "anchor", code=1, config_path=path)
    assert err == "Error: nothing is on record yet\n"
    out, _ = bench.run("audit", "verify", code=0, config_path=path)
    assert out.startswith("0 files")
