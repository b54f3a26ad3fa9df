"""Handing bounces on: as they came, for as long as there is somebody to hand them to."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from smtpproxy.core.effects import Steps
from smtpproxy.core.notices import NoticeRefused, Notices
from smtpproxy.core.services import Services
from smtpproxy.mailbox import handing_on
from smtpproxy.mailbox.handing_on import BounceRelay
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.settings import FeedbackSettings, StoreSettings
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.store import open_feedback
from smtpproxy.store.feedback import HandingOn, ReadReport
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.protocols import StoreUnavailable
from tests.kit import journal

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

    def handed_on(self, notices: Any, content: bytes) -> Steps[None]:
        yield from ()
        if self.failure is not None:
            raise self.failure
        self.got.append((notices._reverse_path, content))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    app = App()
    monkeypatch.setattr(
        Notices, "handed_on", lambda notices, content: app.handed_on(notices, content)
    )
    return app


class Mailbox:
    def __init__(self, folder: Path) -> None:
        self.around = Surroundings()
        self.log = open_feedback(StoreSettings(f"sqlite://{folder}/store.db"))
        self.maildir = Maildir(folder / "feedback")
        self.maildir.make()
        self.audit = folder / "audit"
        self.clock = journal.Clock()
        self.relay = BounceRelay(
            FeedbackSettings("bounces.example"),
            cast(Services, self.around),
            cast(Any, lambda effect: None),
            self.log,
            self.maildir,
            self.audit,
        )

    async def bounced(
        self, reverse_path: str = APP, *, recorded: bool = True, id: str = "r1"
    ) -> None:
        """Somebody's message came back."""
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
    await mailbox.bounced(recorded=False)
    await mailbox.hand_on(minutes=59)
    assert await mailbox.waits()
    await mailbox.hand_on(minutes=59)
    assert (app.got, await mailbox.waits()) == ([], False)


@pytest.mark.parametrize("fault", ["no record", "a fault of the program"])
async def test_one_that_cannot_go_keeps_no_other_waiting(
    mailbox: Mailbox, app: App, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    await mailbox.bounced(recorded=fault != "no record", id="r1")
    await mailbox.bounced(id="r2")
    made = BounceRelay._made

    def broken(relay: BounceRelay, bounce: HandingOn) -> Any:
        if bounce.report == "r1" and fault != "no record":
            raise RuntimeError("nobody thought of that")
        return made(relay, bounce)

    monkeypatch.setattr(BounceRelay, "_made", broken)
    await mailbox.hand_on()
    assert [path for path, _ in app.got] == [APP]
    assert await mailbox.waits()


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
