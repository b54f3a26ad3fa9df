"""Relays on one PostgreSQL: an erasure reaches all their journals, and the index has the decisions
of each."""

import json
import os
import signal
from pathlib import Path

from tests.kit.audit import folder, records
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address

pytestmark = needs("postgresql")
KNOWN, GONE = address("consent"), address("unsubscribed")


def journal(relay: RelayProcess) -> bytes:
    return b"".join(path.read_bytes() for path in folder(relay).glob("*-0.ndjson"))


def indexed(relays: Relays) -> int:
    return int(relays.sql("SELECT count(*) FROM decision"))


def check_others_are_found(one: RelayProcess, two: RelayProcess) -> None:
    """By id, by recipient, in the evidence about a person, and over the API."""
    theirs = {record.decided.id for record in records(two)}
    listed = json.loads(one.must("audit", "show", "--recipient", GONE, "--json"))
    (found,) = [each for each in listed if "elsewhere" in each]
    assert len(listed) == 2
    assert found["id"] in theirs
    assert (found["verdict"], found["reason"]) == ("refuse", "suppressed_unsubscribe")
    assert "at relay" in one.must("audit", "show")
    place = f"row {found['elsewhere']['row']} of {found['elsewhere']['file']}"
    for asked in (("audit", "show", found["id"]), ("explain", "--id", found["id"])):
        code, _, stderr = one.command(*asked)
        assert (code, place in stderr) == (1, True), stderr
    told = json.loads(one.must("contact", "export", KNOWN, "--evidence", "--json"))
    assert (len(told["decisions"]), len(told["decisions_elsewhere"])) == (1, 1)
    assert "audit logs of other relays" in one.must("contact", "export", KNOWN, "--evidence")


def test_an_erasure_reaches_every_journal_and_the_index(relays: Relays, tmp_path: Path) -> None:
    central = tmp_path / "central"
    central.mkdir()
    one, two = relays.start("one"), relays.start("two")
    for relay in (one, two):
        assert [answer(relay, person) for person in (KNOWN, GONE)] == [250, 550]
    wait_for(lambda: indexed(relays) == 4, "all decisions to be in the index")
    assert relays.sql("SELECT count(DISTINCT relay) FROM decision") == "2"
    check_others_are_found(one, two)

    one.must("audit", "ship", str(central))
    two.must("audit", "ship", str(central))
    theirs = records(two)[0].decided.id
    assert theirs in one.must("explain", "--id", theirs, "--from", str(central))
    one.must("audit", "verify", "--from", str(central))

    done = json.loads(one.must("contact", "erase", KNOWN, "--json"))
    assert "relays_behind" not in done
    for relay in (one, two):
        assert KNOWN.encode() not in journal(relay)
        assert GONE.encode() in journal(relay)
        relay.must("audit", "verify")
    assert relays.sql("SELECT count(*) FROM decision WHERE person IS NULL") == "2"
    assert indexed(relays) == 4

    for child in two.children("journals"):
        os.kill(child, signal.SIGKILL)
    two.kill()
    done = json.loads(one.must("contact", "erase", GONE, "--json"))
    assert len(done["relays_behind"]) == 1
    assert GONE.encode() in journal(two)
    assert GONE not in relays.sql("SELECT * FROM journal_erasure")
    two.start()
    wait_for(lambda: GONE.encode() not in journal(two), "the other relay to follow")
    two.must("audit", "verify")
    assert answer(two, GONE) == 550


def test_the_index_catches_up_after_kills_and_an_outage(relays: Relays) -> None:
    one = relays.start("one")
    assert answer(one, GONE) == 550
    wait_for(lambda: indexed(relays) == 1, "the index to begin")
    relays.server.kill()
    assert answer(one, KNOWN) == 451
    (child,) = one.children("journals")
    os.kill(child, signal.SIGKILL)
    relays.server.start()
    wait_for(lambda: answer(one, KNOWN) == 250, "the relay to recover")
    decided = sum(len(record.decided.recipients) for record in records(one))
    assert decided >= 2
    wait_for(lambda: indexed(relays) == decided, "the index to catch up")
    told = json.loads(one.must("status", "--json"))["audit_index"]
    wait_for(
        lambda: json.loads(one.must("status", "--json"))["audit_index"]["rows_behind"] == 0,
        f"no backlog, after {told}",
    )
    relays.sql("UPDATE journal SET rows = '{}'")  # as if a commit were lost: all is read again
    wait_for(lambda: relays.sql("SELECT rows FROM journal") != "{}", "the journal to be read again")
    assert indexed(relays) == decided
