"""An unknown name in a filter is probably misspelt: the command says so."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.cli.stored import Stored
from tests.kit.journal import Clock, decided, journal

COMMANDS = [
    ("audit", "show"),
    ("audit", "export"),
    ("audit", "replay", "--rulebook", "fr"),
    ("report", "--since", "2020-01-01"),
]


@pytest.fixture
async def stored(tmp_path: Path) -> Stored:
    """The record has a former stream and a former listener."""
    stored, clock = Stored(tmp_path), Clock()
    log = journal(tmp_path / "state" / "audit", clock)
    past = decided(clock)
    stream = replace(past.decision.stream, name="past")
    client = replace(past.client, listener="old", login="billing")
    await log.commit(replace(past, decision=replace(past.decision, stream=stream), client=client))
    log.close()
    return stored


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("copies", [False, True])
def test_a_stream_that_never_existed_is_reported(
    stored: Stored, command: tuple[str, ...], copies: bool
) -> None:
    where = ("--from", str(stored.folder / "state" / "audit")) if copies else ()
    told = stored.run(*command, *where, "--stream", "ofers", code=2)
    assert told.stdout == ""
    assert "Error: --stream: there is no stream 'ofers'; known: default, offers" in told.stderr
    for name in ("past", "offers", "default", "notices"):
        stored.run(*command, *where, "--stream", name)
    stored.run(*command, *where, "--stream", "past", "--until", "2020-01-02")


def test_decisions_of_a_former_stream_are_found(stored: Stored) -> None:
    assert len(stored.json("audit", "show", "--stream", "past")) == 1
    assert stored.json("audit", "replay", "--rulebook", "fr", "--stream", "past")["decisions"] == 1
    found = stored.json("report", "--since", "2020-01-01", "--stream", "past")
    assert [stream["stream"] for stream in found["streams"]] == ["past"]


def test_an_application_behind_an_unknown_listener_is_reported(stored: Stored) -> None:
    for command in COMMANDS[:2]:
        told = stored.run(*command, "--app", "apsp/billing", code=2)
        assert "--app: there is no listener 'apsp'; known: apps" in told.stderr
        for app in ("old", "old/billing", "old/other", "apps", "apps/other"):
            stored.run(*command, "--app", app)
    assert len(stored.json("audit", "show", "--app", "old/billing")) == 1
