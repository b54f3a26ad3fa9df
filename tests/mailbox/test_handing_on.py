"""Handing bounces on to the application, unchanged and only while it exists."""

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
"""As an MTA writes it into a maildir: lines end with LF, except the last."""


class Surroundings:
    """Stands in for the services of a process, of which only the clock is used."""

    hostname = "relay.example"

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 28, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


class App:
    """Accepts what is handed on, or fails as told."""

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
        """Bounce somebody's message; return the id of its decision."""
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
        """The reason shown to people in the list."""
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


async def test_a_bounce_is_handed_on_unchanged_below_a_trace_field(
    mailbox: Mailbox, app: App
) -> None:
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


async def test_a_report_still_in_progress_is_handed_on_too(mailbox: Mailbox, app: App) -> None:
    """It is recorded before its file moves, and a kill may come in between."""
    await mailbox.bounced()
    mailbox.maildir.give_back("r1")
    await mailbox.hand_on()
    assert [path for path, _ in app.got] == [APP]


async def test_a_bounce_waits_for_the_upstream_and_is_given_up_after_days(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(seconds=4)
    assert app.got == [], "not before it is due"
    app.failure = UpstreamError("down")
    await mailbox.hand_on(seconds=2)
    await mailbox.hand_on(days=4)
    assert await mailbox.waits()
    await mailbox.hand_on(days=2)
    assert not await mailbox.waits()
    assert await mailbox.why() == ["not handed on: down"]


@pytest.mark.parametrize("failure", [NoticeDeferred("452"), RuntimeError("a fault")])
async def test_a_bounce_is_deferred_only_for_days_whatever_the_cause(
    mailbox: Mailbox, app: App, failure: Exception
) -> None:
    await mailbox.bounced()
    app.failure = failure
    await mailbox.hand_on(days=4)
    assert await mailbox.waits()
    await mailbox.hand_on(days=2)
    assert not await mailbox.waits()
    assert await mailbox.why() == [f"not handed on: {failure}"]


async def test_only_the_first_bounce_is_tried_while_the_upstream_is_down(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.bounced(id="r1")
    await mailbox.bounced(id="r2")
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on()
    assert len(app.got) == 1, "the other goes at once, as it was not tried"


async def test_a_bounce_deferred_while_the_clock_was_ahead_is_tried_once_it_is_right(
    mailbox: Mailbox, app: App
) -> None:
    await mailbox.hand_on(days=1_800)
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(days=-1_800)
    assert [path for path, _ in app.got] == [APP]


async def test_a_permanent_refusal_ends_the_attempts(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    app.failure = NoticeRefused("the sender may not be mailed")
    await mailbox.hand_on()
    assert not await mailbox.waits()


@pytest.mark.parametrize("path", ["", "app@bounces.example", "app@BOUNCES.example"])
async def test_a_bounce_without_a_sender_is_not_handed_on(
    mailbox: Mailbox, app: App, path: str
) -> None:
    await mailbox.bounced(path)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)


async def test_a_second_try_comes_within_seconds(mailbox: Mailbox, app: App) -> None:
    """The upstream is often just a little late when everything was restarted."""
    await mailbox.bounced()
    app.failure = UpstreamError("down")
    await mailbox.hand_on()
    app.failure = None
    await mailbox.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


@pytest.mark.parametrize("also_late", [True, False], ids=["nothing is written", "only at the end"])
async def test_nothing_is_handed_on_twice_while_the_store_is_read_only(
    mailbox: Mailbox, app: App, monkeypatch: pytest.MonkeyPatch, also_late: bool
) -> None:
    """With a full disk, due bounces are found but cannot be marked as done."""

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


async def test_a_record_that_is_unreachable_for_a_while(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    away = mailbox.audit.rename(mailbox.audit.with_name("away"))
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], True)
    away.rename(mailbox.audit)
    await mailbox.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


async def test_a_bounce_whose_record_is_gone(mailbox: Mailbox, app: App) -> None:
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


async def test_a_bounce_of_another_relays_message(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    """That relay answers once it is back, and is asked often enough."""
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
    assert others.open == set(), "nothing about it is left in the store"
    assert not await mailbox.waits()


async def test_a_bounce_of_a_relay_that_is_gone(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    id = await one_of_many.bounced(recorded=False)
    for _ in range(4):
        await one_of_many.hand_on(days=1)
    assert others.open == {id}
    await one_of_many.hand_on(days=1)
    assert (app.got, await one_of_many.waits(), others.open) == ([], False, set())
    assert await one_of_many.why() == [f"not handed on: the record of message {id} is not found"]


async def test_an_old_bounce_is_asked_about_too(
    one_of_many: Mailbox, others: OtherRelays, app: App
) -> None:
    """It may come from a restored mailbox."""
    id = await one_of_many.bounced(recorded=False)
    await one_of_many.hand_on(days=20)
    others.told[id] = sent()
    await one_of_many.hand_on(seconds=6)
    assert [path for path, _ in app.got] == [APP]


@pytest.mark.parametrize("path", ["", "app@bounces.example"])
async def test_a_bounce_goes_where_the_other_relay_would_send_it(
    one_of_many: Mailbox, others: OtherRelays, app: App, path: str
) -> None:
    id = await one_of_many.bounced(recorded=False)
    others.told[id] = sent(path)
    await one_of_many.hand_on()
    assert (app.got, await one_of_many.waits(), others.open) == ([], False, set())


@pytest.mark.parametrize("fault", ["no record", "a fault of the program"])
async def test_a_bounce_that_fails_does_not_hold_up_others(
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


async def test_a_full_application_mailbox_does_not_hold_up_others(
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


async def test_no_bounce_goes_to_an_erased_sender(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    pseudonymise(mailbox.audit, APP)
    pseudonymise(mailbox.audit, ANN)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)


async def test_a_looping_report_is_stopped(mailbox: Mailbox, app: App) -> None:
    await mailbox.bounced()
    mailbox.maildir.remove(["r1"])
    mailbox.maildir.keep("r1", b"Received: x\n" * handing_on.RECEIVED_LIMIT + CONTENT)
    await mailbox.hand_on()
    assert (app.got, await mailbox.waits()) == ([], False)
