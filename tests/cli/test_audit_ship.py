"""`smtpproxy audit ship`, and commands that read the shipped copies."""

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from smtpproxy.sinks.audit.verify import verify
from tests.cli.stored import Stored
from tests.kit.journal import WRITER, Clock, decided, journal, segments
from tests.kit.ports import wait_for
from tests.kit.relay import COMMAND

ANNA, PAUL = "anna@people.example", "paul@people.example"


class Relay(Stored):
    """One of several relays, with an audit log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.audit = folder / "state" / "audit"
        self.audit.parent.mkdir()

    def decide(self, *people: str) -> list[str]:
        return asyncio.run(self._decide(*people))

    async def _decide(self, *people: str) -> list[str]:
        log, clock = journal(self.audit, Clock()), Clock()
        ids = []
        for person in people:
            entry = decided(clock, person)
            await log.commit(entry)
            ids.append(entry.id)
            clock.tick(seconds=1)
        log.close()
        return ids

    @property
    def id(self) -> str:
        return (self.audit.parent / "relay.id").read_text().strip()


@pytest.fixture
def central(tmp_path: Path) -> Path:
    folder = tmp_path / "central"
    folder.mkdir()
    return folder


@pytest.fixture
def relays(tmp_path: Path) -> tuple[Relay, Relay]:
    return Relay(tmp_path / "one"), Relay(tmp_path / "two")


def test_shipped_records_of_several_relays_can_be_read(
    relays: tuple[Relay, Relay], central: Path
) -> None:
    one, two = relays
    (first,), (second, _) = one.decide(ANNA), two.decide(PAUL, ANNA)
    for relay in relays:
        assert "shipped" in relay.run("audit", "ship", str(central)).stdout
        assert relay.run("audit", "ship", str(central)).stdout == "nothing new\n"
    shipped = ("--from", str(central))
    assert [each["id"] for each in one.json("audit", "show", second, *shipped)] == [second]
    assert "is on record" in one.run("audit", "show", second, code=1).stderr
    assert len(one.json("audit", "show", *shipped)) == 3
    assert len(one.json("audit", "show", *shipped, "--recipient", ANNA)) == 2
    assert first in one.run("explain", "--id", first, *shipped, code=None).stdout
    assert len(one.run("audit", "export", *shipped).stdout.splitlines()) == 3
    assert one.json("report", *shipped, "--since", "2026-01-01")["decisions"] == 3
    replayed = one.json("audit", "replay", "--rulebook", "fr", *shipped)
    assert replayed["decisions"] == 3
    report = one.json("audit", "verify", *shipped)
    assert {each["folder"] for each in report["relays"]} == {one.id, two.id}

    (copied,) = segments(central / two.id)
    copied.write_bytes(copied.read_bytes()[:-200])
    told = one.run("audit", "verify", *shipped, code=1).stdout
    assert "cut:" in told
    assert "nothing is wrong" in told, "the other relay's copy must be sound"
    two.run("audit", "ship", str(central))
    one.run("audit", "verify", *shipped)


def test_an_erasure_goes_to_the_copy_with_the_next_run(
    relays: tuple[Relay, Relay], central: Path
) -> None:
    one, _ = relays
    one.decide(ANNA, PAUL)
    one.run("audit", "ship", str(central))
    one.run("contact", "erase", ANNA)
    one.run("audit", "ship", str(central))
    text = "".join(path.read_text() for path in (central / one.id).iterdir())
    assert (ANNA in text, PAUL in text) == (False, True)
    one.run("audit", "verify", "--from", str(central))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nowhere", "not a folder"),
        ("", "expected a folder, s3://BUCKET/PREFIX"),
        ("ftp://host/x", "expected a folder, s3://BUCKET/PREFIX"),
        ("s3:///x", "expected a folder"),
        ("https://host:port/", "expected a folder"),
        ("http://collector.example/", "use https://"),
        ("https://me:secret@collector.example/", "a URL must not have a password"),
        ("syslog://host/path", "expected a folder"),
    ],
)
def test_an_invalid_target_is_reported(tmp_path: Path, target: str, told: str) -> None:
    done = Relay(tmp_path / "one").run("audit", "ship", target, code=2)
    assert told in done.stderr


def test_a_folder_without_an_audit_log_is_refused(tmp_path: Path, central: Path) -> None:
    done = Relay(tmp_path / "one").run("audit", "show", "--from", str(central), code=2)
    assert "no audit log in " in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{'0' * 25}U-0.ndjson", b""),  # the name is that of a segment, but holds no id
        ("relay.json", b"[" * 4000),
        ("relay.json", b'{"host":7}'),
    ],
)
def test_other_files_beside_a_copy_do_not_prevent_reading_it(
    relays: tuple[Relay, Relay], central: Path, name: str, content: bytes
) -> None:
    one, _ = relays
    (first,) = one.decide(ANNA)
    one.run("audit", "ship", str(central))
    (central / one.id / name).write_bytes(content)
    shipped = ("--from", str(central))
    assert [each["id"] for each in one.json("audit", "show", *shipped)] == [first]
    one.run("audit", "verify", *shipped)


def test_a_kill_loses_nothing(relays: tuple[Relay, Relay], central: Path, tmp_path: Path) -> None:
    """Writer and shipper are killed again and again, in the middle of their work."""
    one, _ = relays
    ship = [*COMMAND, "audit", "ship", str(central), "--config", str(one.config_path)]
    for delay in (0.3, 0.6, 0.9):
        with subprocess.Popen(
            [COMMAND[0], "-c", WRITER, one.audit, "os"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with subprocess.Popen([*ship, "--follow", "--every", "0.1"]) as shipping:
                wait_for(lambda: any(central.glob("*/*.ndjson")), "something to be shipped")
                with pytest.raises(subprocess.TimeoutExpired):
                    shipping.wait(delay)
                os.kill(shipping.pid, signal.SIGKILL)
            writer.kill()
        folder = next(central.iterdir())
        assert list(verify(folder).faults()) == []
    one.run("audit", "ship", str(central))
    assert json.loads((folder / "relay.json").read_text())["relay"] == one.id
    whole = {path.name: path.read_bytes() for path in segments(one.audit)}
    assert len(whole) >= 3
    for path in segments(folder):
        raw = whole[path.name]
        assert path.read_bytes() == raw[: raw.rfind(b"\n") + 1]
    assert {path.name for path in segments(folder)} == whole.keys()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_it_first_ships_what_is_there(
    relays: tuple[Relay, Relay], central: Path, number: signal.Signals
) -> None:
    one, _ = relays
    one.decide(ANNA)
    arguments = ["audit", "ship", str(central), "--follow", "--every", "3600"]
    with subprocess.Popen(
        [*COMMAND, *arguments, "--config", str(one.config_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shipping:
        wait_for(lambda: any(central.glob("*/anchors.ndjson")), "something to be shipped")
        one.decide(PAUL)
        shipping.send_signal(number)
        told, error = shipping.communicate(timeout=20)
    assert (shipping.returncode, error) == (0, "")
    assert "shipped" in told
    shipped = {path.name: path.read_bytes() for path in segments(central / one.id)}
    assert shipped == {path.name: path.read_bytes() for path in segments(one.audit)}
