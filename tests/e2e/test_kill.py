"""The relay, or a part of it, is killed under load: every reply it gave holds."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from smtpproxy.sinks.audit.reader import Record
from tests.kit.audit import outcome, records, relayed
from tests.kit.load import SmtpSink
from tests.kit.messages import message
from tests.kit.numbered import NumberedLoad, number_of
from tests.kit.parts import needs
from tests.kit.ports import listens, wait_for
from tests.kit.processes import wait_exit
from tests.kit.relay import RelayProcess, listener

pytestmark = needs("smtp-sink")


@pytest.fixture
def dump() -> Iterator[SmtpSink]:
    with SmtpSink(dump=True) as sink:
        yield sink


@pytest.fixture
def relay(dump: SmtpSink, filled: Callable[..., RelayProcess]) -> RelayProcess:
    till = listener("till", "receipts", default="receipts")
    return filled(dump.address, {"server": {"workers": 2}, "listener": [till], "web": {}})


def numbers(entries: Sequence[Record]) -> set[int]:
    return {number_of(entry.decided.message_id or "") for entry in entries}


def check_accounts(relay: RelayProcess, dump: SmtpSink, accepted: set[int]) -> list[Record]:
    """Check that nothing answered 250 is missing or unrecorded; return the records."""

    def at_sink() -> set[int]:
        return {number_of(mail.message) for mail in dump.dumped()}

    entries = relayed(records(relay))
    wait_for(lambda: accepted <= at_sink(), f"{len(accepted)} messages at the sink")
    assert accepted <= at_sink() <= numbers(entries)
    assert len(entries) == len(numbers(entries))
    return entries


def check_service(relay: RelayProcess) -> None:
    code, text = relay.send(message(), "jeanne@people.example", sender="orders@shop.example")
    assert code == 250, text


def test_the_whole_relay_is_killed(relay: RelayProcess, dump: SmtpSink) -> None:
    with NumberedLoad(relay.port(), messages=1_500) as load:
        load.wait_accepted(400)
        killed = datetime.now(UTC)
        relay.kill()
        fates = load.stop()
    assert {fate.code for fate in fates} == {250, None}
    entries = check_accounts(relay, dump, load.accepted)
    unknown = [entry for entry in entries if entry.outcome is None]
    assert all(entry.decided.at > killed - timedelta(seconds=1) for entry in unknown)
    assert {outcome(entry) for entry in entries} <= {250, None}
    assert len(entries) - len(unknown) >= 200
    # With the same ports and state it starts at once and continues.
    relay.start()
    check_service(relay)
    assert len(relayed(records(relay))) == len(entries) + 1
    relay.must("audit", "show", unknown[-1].decided.id if unknown else entries[-1].decided.id)


def test_a_worker_is_killed(relay: RelayProcess, dump: SmtpSink) -> None:
    before = relay.workers
    with NumberedLoad(relay.port(), sessions=8) as load:
        load.wait_accepted(200)
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(relay.workers) == 2 and before[0] not in relay.workers, "a new worker")
        wait_for(lambda: relay.metric("smtpproxy_workers") == 2, "the new worker's first beat")
        load.wait_accepted(200)
        fates = load.stop()
    lost = [fate for fate in fates if not fate.accepted]
    assert {fate.code for fate in lost} <= {None}
    assert len(lost) <= 8  # what the sessions were doing at that moment
    check_accounts(relay, dump, load.accepted)
    assert relay.metric("smtpproxy_worker_exits_total") == 1


def test_the_supervisor_is_killed(relay: RelayProcess, dump: SmtpSink) -> None:
    family = relay.pids
    with NumberedLoad(relay.port(), messages=1_500) as load:
        load.wait_accepted(200)
        os.kill(relay.pid, signal.SIGKILL)
        for pid in family[1:]:
            wait_exit(pid)
        fates = load.stop()
    assert not listens(relay.port())
    assert {fate.code for fate in fates} <= {250, 421, None}
    entries = check_accounts(relay, dump, load.accepted)
    # The workers had time to end properly.
    assert {outcome(entry) for entry in entries} == {250}
    assert numbers(entries) == load.accepted
    relay.kill()  # nothing may be left of it
    relay.start()
    check_service(relay)
