"""Processing the inbox: reports that need another relay's record wait for it, others do not."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.events import Client
from smtpproxy.mail.return_path import ReturnPaths
from smtpproxy.mailbox import inbox
from smtpproxy.mailbox.acting import Actor
from smtpproxy.mailbox.inbox import Inbox
from smtpproxy.mailbox.messages import Messages
from smtpproxy.mailbox.reading import Reader
from smtpproxy.mailbox.tokens import Tokens
from smtpproxy.policy.model import Origin, Stream
from smtpproxy.settings import FeedbackSettings, StoreSettings
from smtpproxy.store import open_feedback, open_store
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.link_keys import LinkReader, ensure_link_keys, load_link_keys
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from tests.kit import journal
from tests.kit.other_relays import OtherRelays as Others
from tests.kit.reports import bounce, complaint

ANN, APP = "ann@people.example", "news@shop.example"
DOMAIN = "bounces.shop.example"
OFFERS = Stream(name="offers", purpose="offers", verp=True, brand="shop")
SENT = SentMessage(Client("apps", "192.0.2.1", "app.example"), APP, (ANN,))


class Mailbox:
    def __init__(self, folder: Path, store: Store, others: Others | None) -> None:
        ensure_link_keys(folder, date(2026, 1, 1))
        keys = {key.version: key.secret for key in load_link_keys(folder).values()}
        self.paths = ReturnPaths(keys, DOMAIN)
        self.store = store
        self.time = datetime.now(UTC)
        self.log = open_feedback(StoreSettings(f"sqlite://{folder}/store.db"))
        self.maildir = Maildir(folder / "feedback")
        self.maildir.make()
        self.clock = journal.Clock()
        self.clock.time = self.time
        self.folder, self.others = folder, others
        self.start()

    def start(self) -> None:
        """Start, or restart with only the maildir and the stores left."""
        settings = FeedbackSettings(DOMAIN)
        messages = Messages(self.folder / "audit", self.others, now=lambda: self.time)
        streams = {"offers": OFFERS}
        tokens = Tokens(LinkReader(self.folder), DOMAIN, streams, messages.here)
        actor = Actor(settings, lambda: self.store, self.log)
        reader = Reader(settings, tokens)
        self.inbox = Inbox(self.maildir, reader, actor, messages, lambda: self.time)

    def path(self, id: str) -> str:
        return self.paths.make(id, "offers", ANN)

    def deliver(self, name: str, content: bytes) -> None:
        self.maildir.deliver(name.rjust(26, "0"), content)

    async def look(self, **later: float) -> list[str]:
        """Process the inbox; return the ids of the reports acted on."""
        self.time += timedelta(**later)
        found = []
        while done := await self.inbox.work_through(lambda: False):
            found += [each.understood.arrived.id.lstrip("0") for each in done]
        return found

    async def suppressed(self, person: str = ANN) -> list[Origin]:
        return [each.origin for each in await self.store.suppressions(person)]

    def hidden(self, id: str) -> bytes:
        """A complaint that names nobody but has a field written by the relay."""
        token = self.path(id).partition("@")[0]
        return complaint("", f"Feedback-ID: {token}::offers:smtpproxy")


Opened = Callable[[Others | None], Mailbox]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    store = open_store(StoreSettings(f"sqlite://{tmp_path}/store.db"), tmp_path)
    mailboxes = []

    def opened(others: Others | None) -> Mailbox:
        mailboxes.append(Mailbox(tmp_path, store, others))
        return mailboxes[-1]

    yield opened
    for mailbox in mailboxes:
        mailbox.log.close()
    await store.close()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def mailbox(opened: Opened, others: Others) -> Mailbox:
    return opened(others)


async def test_a_complaint_that_names_nobody_waits_for_the_relay_that_sent_the_mail(
    mailbox: Mailbox, others: Others
) -> None:
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    assert await mailbox.look() == []
    assert others.open == {id}, "the relay is asked at once"
    mailbox.deliver("B", bounce("bob@people.example"))
    assert await mailbox.look() == ["B"], "nothing else is held up"
    mailbox.start()
    assert await mailbox.look() == []
    others.told[id] = SENT
    assert await mailbox.look() == ["A"]
    assert await mailbox.suppressed() == [Origin.COMPLAINT]
    assert others.open == set()
    assert (await mailbox.log.totals())["complaint", "offers"] == 1


async def test_a_person_named_in_the_report_is_suppressed_at_once(
    mailbox: Mailbox, others: Others
) -> None:
    id = mailbox.clock.new_id()
    mailbox.deliver("A", bounce(ANN, to=mailbox.path(id)))
    assert await mailbox.look() == ["A"]
    assert await mailbox.suppressed() == [Origin.BOUNCE]
    assert others.open == set()


async def test_a_report_nobody_can_trace_is_kept_for_a_person_after_days(
    mailbox: Mailbox, others: Others
) -> None:
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    assert await mailbox.look() == []
    assert await mailbox.look(days=4) == []
    assert await mailbox.look(days=2) == ["A"]
    (kept,) = await mailbox.log.kept()
    assert f"the record of message {id} is not found" in kept.why
    assert others.open == set(), "and no longer asked about"
    assert await mailbox.suppressed() == []


async def test_nothing_is_left_of_a_person_erased_meanwhile(
    mailbox: Mailbox, others: Others
) -> None:
    """The report may hold the address in an encoding that no erasure finds."""
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    assert await mailbox.look() == []
    others.told[id] = SentMessage(SENT.client, APP, ("erased:1f", "bob@people.example"))
    assert await mailbox.look() == ["A"]
    assert list(mailbox.maildir.settled()) == []
    assert await mailbox.log.kept() == []
    assert await mailbox.suppressed() == []
    assert others.open == set()


async def test_the_erasure_of_another_recipient_hides_nothing(
    mailbox: Mailbox, others: Others
) -> None:
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    others.told[id] = SentMessage(SENT.client, APP, ("erased:1f", ANN))
    assert await mailbox.look() == []
    assert await mailbox.look() == ["A"]
    assert await mailbox.suppressed() == [Origin.COMPLAINT]
    assert len(list(mailbox.maildir.settled())) == 1


async def test_an_old_report_still_waits_a_moment(mailbox: Mailbox, others: Others) -> None:
    """In a restored mailbox nobody has been asked yet."""
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    mailbox.time += timedelta(days=9)
    assert await mailbox.look() == []
    others.told[id] = SENT
    assert await mailbox.look() == ["A"]
    assert await mailbox.suppressed() == [Origin.COMPLAINT]


async def test_a_large_inbox_is_read_in_batches(mailbox: Mailbox, others: Others) -> None:
    ids = [mailbox.clock.new_id() for _ in range(130)]
    for number, id in enumerate(ids):
        mailbox.deliver(f"A{number:03}", mailbox.hidden(id))
    assert await mailbox.look() == []
    assert others.open == set(ids)
    others.told = dict.fromkeys(ids, SENT)
    assert sorted(await mailbox.look()) == [f"A{number:03}" for number in range(130)]
    assert others.open == set()


async def test_reports_stay_while_the_store_does_not_answer(
    mailbox: Mailbox, others: Others
) -> None:
    id = mailbox.clock.new_id()
    mailbox.deliver("A", mailbox.hidden(id))
    others.failure = StoreUnavailable("down")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await mailbox.look()
    others.failure = None
    others.told[id] = SENT
    assert await mailbox.look() == ["A"]


async def test_the_number_of_waiting_reports_is_limited(
    mailbox: Mailbox, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody with a token can send it as often as they like."""
    monkeypatch.setattr(inbox, "_MAX_WAITING", 3)
    content = mailbox.hidden(mailbox.clock.new_id())
    for number in range(5):
        mailbox.deliver(f"A{number}", content)
    assert await mailbox.look() == ["A3", "A4"]
    assert len(others.open) == 1, "asked once"
    assert len(await mailbox.log.kept()) == 1, "and the same report is kept once"


async def test_a_token_sent_often_takes_little_room(
    mailbox: Mailbox, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "_MAX_WAITING", 20)
    own, others_own = mailbox.clock.new_id(), mailbox.clock.new_id()
    for number in range(30):
        mailbox.deliver(f"A{number:02}", mailbox.hidden(own) + b"%d\r\n" % number)
    mailbox.deliver("B", mailbox.hidden(others_own))
    assert await mailbox.look() == [f"A{number:02}" for number in range(5, 30)]
    assert len(await mailbox.log.kept()) == 25, "the others are left for a person"
    others.told[others_own] = SENT
    assert await mailbox.look() == ["B"]
    assert await mailbox.suppressed() == [Origin.COMPLAINT]
    mailbox.deliver("C", mailbox.hidden(own) + b"C\r\n")
    others.told[own] = SENT
    assert len(await mailbox.look()) == 6
    mailbox.deliver("D", mailbox.hidden(own) + b"D\r\n")
    del others.told[own]
    assert await mailbox.look() == [], "reports that no longer wait take no room"


@pytest.mark.parametrize("why", ["one relay", "older than the index"])
async def test_relays_that_cannot_know_are_not_asked(
    opened: Opened, others: Others, why: str
) -> None:
    mailbox = opened(None if why == "one relay" else others)
    mailbox.clock.tick(days=-100 if why == "older than the index" else 0)
    mailbox.deliver("A", mailbox.hidden(mailbox.clock.new_id()))
    assert await mailbox.look() == ["A"]
    assert others.open == set()
    assert len(await mailbox.log.kept()) == 1
