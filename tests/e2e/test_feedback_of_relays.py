"""Relays on one PostgreSQL: reports that reach another relay than the sending one are understood,
and a bounce is forwarded to the app once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_feedback import APP, DOMAIN, config, deliver, handed_on, receipts, refused
from tests.e2e.test_ways_out import bare
from tests.kit import postgres
from tests.kit.audit import records
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays
from tests.kit.reports import bounce, complaint
from tests.kit.soak import only_at_length
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")
JEANNE, PAUL = address("consent"), address("customer")


def returning() -> dict[str, Any]:
    """All mail has return paths."""
    plain = config()
    return {**plain, "stream": [{**each, "verp": True} for each in plain["stream"]]}


@pytest.fixture(scope="module")
def relays(
    tmp_path_factory: pytest.TempPathFactory, mta: FakeUpstream
) -> Iterator[tuple[Relays, RelayProcess, RelayProcess]]:
    """Two running relays, of which the first sends."""
    relays = Relays(tmp_path_factory.mktemp("relays"), mta.address, postgres.cluster())
    one, two = (relays.start(name, returning(), timeout="10s") for name in ("one", "two"))
    yield relays, one, two
    relays.kill()


@pytest.fixture
def upstream(mta: FakeUpstream) -> FakeUpstream:
    mta.begin()
    return mta


def hidden(content: bytes) -> bytes:
    """A complaint that identifies the person only by a field that the relay wrote."""
    header = content.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
    return complaint("", *(line for line in header.split("\r\n") if line.startswith("Feedback-ID")))


def nothing_is_asked(relays: Relays) -> bool:
    return relays.sql("SELECT count(*) FROM asked_message") == "0"


def test_reports_to_another_relay_are_understood_and_forwarded_once(
    relays: tuple[Relays, RelayProcess, RelayProcess], upstream: FakeUpstream
) -> None:
    """Within a second of the mail; the bounce reaches both relays."""
    shared, one, two = relays
    person, complains = "gone@people.example", address("desk")
    assert one.send(bare(), complains)[0] == 250
    (marketed,) = upstream.messages
    (mail,) = receipts(one, upstream, person)
    sent = records(one)[-1].decided.id
    told = hidden(marketed.data)
    deliver(two, (f"abuse@{DOMAIN}", told), sender="loop@provider.example")
    report = bounce(person, to=mail.sender)
    deliver(two, (mail.sender, report))
    wait_for(lambda: shared.sql("SELECT count(*) FROM hand_on") == "1", "the report to be read")
    deliver(one, (mail.sender, report))
    wait_for(lambda: handed_on(upstream) == [person], "the app to have the bounce", timeout=30)
    for relay in (one, two):
        assert refused(relay, person, "suppressed_bounce")
    assert refused(two, complains, "suppressed_complaint", bare())
    wait_for(lambda: nothing_is_asked(shared), "nothing more to be asked")
    assert handed_on(upstream) == [person]
    notices = [each.decided for each in records(two) if each.decided.stage == "notice"]
    assert [each.recipients[0].canonical for each in notices] == [APP]
    assert notices[0].notice_about == sent
    assert json.loads(two.must("feedback", "list", "--json")) == []


@only_at_length
def test_reports_wait_for_the_journal_of_a_relay_that_is_away(
    relays: tuple[Relays, RelayProcess, RelayProcess], upstream: FakeUpstream, tmp_path: Path
) -> None:
    """The relay does not come back, but its journal does, from a shipped copy on another machine.
    The one with the reports is killed meanwhile: they wait, and then take effect."""
    shared, one, two = relays
    (mail,) = receipts(one, upstream, "lost@people.example")
    for person in (JEANNE, PAUL):
        assert one.send(bare(), person)[0] == 250
    told = [hidden(each.data) for each in upstream.messages if each.recipients[0] in (JEANNE, PAUL)]
    indexed = "SELECT count(*) FROM decision"
    wait_for(lambda: int(shared.sql(indexed)) >= len(records(one)), "the decisions to be known")
    one.must("audit", "ship", str(tmp_path))
    one.kill()
    deliver(two, (mail.sender, bounce("lost@people.example", to=mail.sender)))
    deliver(two, *((f"abuse@{DOMAIN}", each) for each in told[:1]), sender="loop@provider.example")
    by_hand = two.root / "complaint.eml"
    by_hand.write_bytes(told[1])
    (line,) = two.must("feedback", "read", str(by_hand), "--json").splitlines()
    assert json.loads(line)["waits"]

    def elsewhere() -> float:
        return two.metric("smtpproxy_feedback_reports", state="elsewhere") or 0

    wait_for(lambda: elsewhere() == 3, "all three to be asked for")
    two.kill()
    two.start()
    status = json.loads(two.must("status", "--json"))["feedback"]
    assert (status["waiting"], status["to_hand_on"], status["kept"]) == (2, 1, 0)
    assert two.send(bare(), JEANNE)[0] == 250, "nobody can know yet"
    id = (one.root / "state/relay.id").read_text()
    three = shared.prepare("three", returning(), timeout="10s")
    (three.root / "state/relay.id").write_text(id)
    shutil.copytree(tmp_path / id.strip(), three.root / "state/audit", dirs_exist_ok=True)
    three.start()
    for person in (JEANNE, PAUL):
        wait_for(lambda who=person: refused(two, who, "suppressed_complaint", bare()), "to know")  # type: ignore[misc]
    wait_for(lambda: handed_on(upstream) == ["lost@people.example"], "the bounce", timeout=60)
    wait_for(lambda: nothing_is_asked(shared), "nothing more to be asked")
    assert json.loads(two.must("status", "--json"))["feedback"]["waiting"] == 0
