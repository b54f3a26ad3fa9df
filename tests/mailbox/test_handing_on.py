"""Handing bounces on: as they came, for as long as there is somebody to hand them to."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from smtpproxy.core.effects import SendContent, Steps
from smtpproxy.core.notices import NoticeDeferred, NoticeRefused, Notices
from smtpproxy.core.services import Services
from smtpproxy.events import Client
from smtpproxy.mailbox import handing_on
from smtpproxy.mailbox.handing_on import BounceRelay
from smtpproxy.mailbox.messages import Messages
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.settings import FeedbackSettings, StoreSettings
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.store import open_feedback
from smtpproxy.store.feedback import HandingOn, ReadReport, SentMessage
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.records import StoreUnavailable
from tests.kit import journal
from tests.kit.other_relays import OtherRelays

APP, ANN = "news@shop.example", "ann@people.example"
CONTENT = b"Return-Path: <>\nDelivered-To: b@bounces.example\nSubject: bounce\n\n.dot\n\xe9 end"
"""As an MTA writes it into a maildir: lines end with LF, and the last one does not."""


class Surroundings:
    """Stands for the services of a process: nothing but the clock is asked."""

    hostname = "relay.example"

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 28, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


class App:
    """Takes what is handed on, or does what it was told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.failure: Exception | None = None
        self.failures: dict[str, Exception] = {}  # by reverse path

    def handed_on(self, notices: Any, content: bytes) -> Steps[None]:
        yield from ()
        failure = self.failures.get(notices._reverse_path, self.failure)
        if failure is not None:
            raise failure
        self.got.append((notices._reverse_path, content))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    app = App()
    monkeypatch.setattr(
        Notices, "handed_on", lambda notices, content: app.handed_on(notices, content)
    )
    return app


class Mailbox:
    def __init__(self, folder: Path, others: OtherRelays | None = None) -> None:
        self.around = Surroundings()
        self.log = open_feedback(StoreSettings(f"sqlite://{folder}/store.db"))
        self.maildir = Maildir(folder / "feedback")
        self.maildir.make()
        self.audit = folder / "audit"
        self.clock = journal.Clock()
        self.relay = BounceRelay(
            FeedbackSettings("bounces.example"),
            cast(Services, self.around),
            {SendContent: lambda effect: None},
            self.log,
            self.maildir,
            Messages(self.audit, others, now=self.around.now),
        )

    async def bounced(
        self, reverse_path: str = APP, *, recorded: bool = True, id: str = "r1"
    ) -> str:
        """Somebody's message came back; return the id of the decision on it."""
        decided = journal.decided(self.clock, ANN, reverse_path=reverse_path)
        if recorded:
            written = journal.journal(self.audit, self.clock)
            await written.commit(decided)
            written.close()
        self.maildir.keep(id, CONTENT)
        report = ReadReport(
            id, self.around.time, "dsn", "", hand_on=id.encode(), decision=decided.id
        )
        await self.log.note([report])
        return decided.id

    async def why(self) -> list[str]:
        """What the list for people says."""
        return [each.why for each in await self.log.kept()]

    async def hand_on(self, **later: float) -> None:
        self.around.time += timedelta(**later)
        await self.relay.hand_on(lambda: False)

    async def waits(self) -> bool:
        return (await self.log.counts())[1] == 1


@pytest.fixture
async def mailbox(tmp_path: Path) -> AsyncIterator[Mailbox]:
    mailbox = Mailbox(tmp_path)
    yield mailbox
    mailbox.log.close()


async def test_as_it_came_under_a_trace_field(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    await mailbox.hand_on()
    await mailbox.hand_on(days=1)
    ((path, content),) = app.got
    assert path == APP
    trace, rest = content.split(b"\r\nSubject", 1)
    assert trace.startswith(
        b"Received: from feedback (unix)\r\n\tby relay.example (smtpproxy) with LMTP"
    )
    assert rest == b": bounce\r\n\r\n.dot\r\n\xe9 end\r\n"
    assert not await mailbox.waits()


async def test_what_is_not_settled_yet_is_handed_on_too(mailbox: Mailbox, app: App) -> None:
    """It is on record before its file moves: somebody may be quick, or killed in between."""
    await mailbox.bounced()
    mailbox.maildir.give_back("r1")
    await mailbox.hand_on()
    assert [path for path, _ in app.got] == [APP]


async def test_it_waits_for_the_upstream_and_is_given_up_after_days(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(seconds=4)
    assert app.got == [], "not before its time"
    app.failure = UpstreamError("down")
    await mailbox.hand_on(seconds=2)
    await mailbox.hand_on(days=4)
    assert await mailbox.waits()
    await mailbox.hand_on(days=2)
    assert not await mailbox.waits()
    assert await mailbox.why() == ["not handed on: down"]


@pytest.mark.parametrize("failure", [NoticeDeferred("452"), RuntimeError("a fault")])
async def test_whatever_puts_it_off_does_so_for_days_only(
    mailbox: Mailbox, app: App, failure: Exception
) -> None:
    await mailbox.bounced()
    app.failure = failure
    await mailbox.hand_on(days=4)
    assert await mailbox.waits()
    await mailbox.hand_on(days=2)
    assert not await mailbox.waits()
    assert await mailbox.why() == [f"not handed on: {failure}"]


async def test_while_the_upstream_is_down_only_the_first_is_tried(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.bounced(id="r1")
    await mailbox.bounced(id="r2")
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on()
    assert len(app.got) == 1, "the other at once, as it was not tried"


async def test_what_was_put_off_while_the_clock_was_ahead_is_tried_once_it_is_right(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.hand_on(days=1_800)
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(days=-1_800)
    assert [path for path, _ in app.got] == [APP]


async def test_a_refusal_for_good_ends_it(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    app.failure = NoticeRefused("the sender may not be mailed")
    await mailbox.hand_on()
    assert not await mailbox.waits()


@pytest.mark.parametrize("path", ["", "app@bounces.example", "app@BOUNCES.example"])
async def test_nobody_is_there_to_hand_it_to(mailbox: Mailbox, app: App, path: str) -> None:
    await mailbox.bounced(path)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)


async def test_a_second_try_comes_within_seconds(mailbox: Mailbox, app: App) -> None:
    """The upstream is often only late, where all of it was just started."""
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


@pytest.mark.parametrize("also_late", [True, False], ids=["nothing is written", "only at the end"])
async def test_a_store_that_can_only_be_read_has_nothing_handed_on_twice(
    mailbox: Mailbox, app: App, monkeypatch: pytest.MonkeyPatch, also_late: bool
) -> None:
    """A full disk of the database: what is due is found, and cannot be ticked off."""

    async def full(*_: object) -> None:
        raise StoreUnavailable("the disk of the database is full")

    await mailbox.bounced()
    with monkeypatch.context() as trouble:
        trouble.setattr(mailbox.log, "handed_on", full)
        if also_late:
            trouble.setattr(mailbox.log, "hand_on_later", full)
        for _ in range(3):
            with suppress(StoreUnavailable):
                await mailbox.hand_on(hours=2)
        assert len(app.got) == (0 if also_late else 1)
    await mailbox.hand_on(hours=2)
    await mailbox.hand_on(hours=2)
    assert [path for path, _ in app.got] == [APP]
    assert not await mailbox.waits()


async def test_a_record_that_is_out_of_reach_for_a_while(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    away = mailbox.audit.rename(mailbox.audit.with_name("away"))
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], True)
    away.rename(mailbox.audit)
    await mailbox.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


async def test_the_record_of_the_message_is_gone(mailbox: Mailbox, app: App) -> None:
    id = await mailbox.bounced(recorded=False)
    await mailbox.hand_on(minutes=59)
    assert await mailbox.waits()
    assert await mailbox.why() == []
    await mailbox.hand_on(minutes=59)
    assert (app.got, await mailbox.waits()) == ([], False)
    assert await mailbox.why() == [f"not handed on: the record of message {id} is not found"]


@pytest.fixture
async def others() -> OtherRelays:
    return OtherRelays()


@pytest.fixture
async def one_of_many(tmp_path: Path, others: OtherRelays) -> AsyncIterator[Mailbox]:
    mailbox = Mailbox(tmp_path, others)
    mailbox.clock.time = mailbox.around.time
    yield mailbox
    mailbox.log.close()


def sent(reverse_path: str = APP) -> SentMessage:
    return SentMessage(Client("apps", "192.0.2.1", "app.example"), reverse_path, (ANN,))


async def test_another_relay_sent_the_message(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    """It tells once it is there again, and is asked often enough for that to be of use."""
    mailbox = one_of_many
    id = await mailbox.bounced(recorded=False)
    await mailbox.hand_on()
    assert others.open == {id}
    for _ in range(400):
        await mailbox.hand_on(minutes=5)
    assert (app.got, await mailbox.waits()) == ([], True)
    others.told[id] = sent()
    await mailbox.hand_on(minutes=5)
    assert [path for path, _ in app.got] == [APP]
    assert others.open == set(), "nothing of it is left in the store"
    assert not await mailbox.waits()


async def test_the_relay_that_sent_the_message_is_gone(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    id = await one_of_many.bounced(recorded=False)
    for _ in range(4):
        await one_of_many.hand_on(days=1)
    assert others.open == {id}
    await one_of_many.hand_on(days=1)
    assert (app.got, await one_of_many.waits(), others.open) == ([], False, set())
    assert await one_of_many.why() == [f"not handed on: the record of message {id} is not found"]


async def test_a_bounce_that_came_long_ago_is_asked_about_too(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    """A mailbox that was put back."""
    id = await one_of_many.bounced(recorded=False)
    await one_of_many.hand_on(days=20)
    others.told[id] = sent()
    await one_of_many.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


@pytest.mark.parametrize("path", ["", "app@bounces.example"])
async def test_what_another_relay_tells_goes_where_it_would_go_there(
    one_of_many: Mailbox, others: OtherRelays, app: App, path: str
) -> None:
    id = await one_of_many.bounced(recorded=False)
    others.told[id] = sent(path)
    await one_of_many.hand_on()
    assert (app.got, await one_of_many.waits(), others.open) == ([], False, set())


@pytest.mark.parametrize("fault", ["no record", "a fault of the program"])
async def test_one_that_cannot_go_keeps_no_other_waiting(
    mailbox: Mailbox, app: App, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    await mailbox.bounced(recorded=fault != "no record", id="r1")
    await mailbox.bounced(id="r2")
    made = BounceRelay._made

    def broken(relay: BounceRelay, bounce: HandingOn, message: SentMessage) -> Any:
        if bounce.report == "r1" and fault != "no record":
            raise RuntimeError("nobody thought of that")
        return made(relay, bounce, message)

    monkeypatch.setattr(BounceRelay, "_made", broken)
    await mailbox.hand_on()
    assert [path for path, _ in app.got] == [APP]
    assert await mailbox.waits()


async def test_an_app_whose_mailbox_is_full_keeps_no_other_waiting(
    mailbox: Mailbox, app: App
) -> None:
    app.failures["full@shop.example"] = NoticeDeferred("not accepted: 452")
    for number in range(3):
        await mailbox.bounced("full@shop.example", id=f"r{number}")
    await mailbox.bounced(id="r3")
    await mailbox.hand_on()
    assert [path for path, _ in app.got] == [APP]
    assert (await mailbox.log.counts()).hand_on == 3
    app.failures.clear()
    await mailbox.hand_on(seconds=6)
    assert len(app.got) == 4


async def test_who_was_erased_gets_none(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    pseudonymise(mailbox.audit, APP)
    pseudonymise(mailbox.audit, ANN)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)


async def test_a_report_that_goes_round_in_circles_goes_no_further(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.bounced()
    mailbox.maildir.remove(["r1"])
    mailbox.maildir.keep("r1", b"Received: x\n" * handing_on.RECEIVED_LIMIT + CONTENT)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)
