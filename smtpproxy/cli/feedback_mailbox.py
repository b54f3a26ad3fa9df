"""`smtpproxy feedback`: act on reports, and list, show and assign those kept for a person."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, TypeVar

import click

from smtpproxy.cli import fail, unknown
from smtpproxy.cli.options import CanonicalAddress, choice, command, option
from smtpproxy.cli.printer import Column, Part, Result, Table
from smtpproxy.cli.stores import open_patiently, using_store
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.feedback import read_report
from smtpproxy.feedback.records import Class, FeedbackReport
from smtpproxy.mailbox.acting import SUPPRESSIONS, Actor, Done, heard_event, wants_feedback
from smtpproxy.mailbox.messages import Messages
from smtpproxy.mailbox.reading import Reader
from smtpproxy.settings import FeedbackSettings, Settings
from smtpproxy.store import open_breaker, open_feedback
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.feedback import UNKNOWN, FeedbackLog, HeardEvent, ReadReport
from smtpproxy.store.maildir import Arrived, Maildir
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.register import relay_id
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

T = TypeVar("T")

_AT_ONCE = 200  # reports in one commit
_SHOWN = 256 * 1024  # octets of a report


def would_be_done(
    settings: Settings | None, contents: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[str, FeedbackReport, dict[str, Any]]]:
    """Read reports as the mailbox would, or without settings for one, but do not act on them."""
    if settings is None or settings.feedback is None:
        yield from ((name, read_report(content), {}) for name, content in contents)
        return
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as threads:
        messages = Messages.of(settings)
        reader = Reader.of(settings, settings.feedback, messages, threads)
        try:
            while some := list(islice(contents, _AT_ONCE)):
                understood = runner.run(reader.read(_arrived([content for _, content in some])))
                for (name, _), one in zip(some, understood, strict=True):
                    yield name, one.report, {}
        finally:
            messages.close()
            runner.run(reader.close())


def _arrived(contents: Sequence[bytes]) -> Sequence[Arrived]:
    """Return reports with ids made from their content: the same content has the same id."""
    at = now()
    return [
        Arrived("F" + sha256(content).hexdigest()[:25].upper(), at, len(content), content)
        for content in contents
    ]


def _feedback(settings: Settings, instead: str = "") -> FeedbackSettings:
    if settings.feedback is None:
        fail(
            "there is no feedback mailbox: add [feedback] with its domain to the configuration"
            + instead,
            2,
        )
    return settings.feedback


def act_on(
    settings: Settings, contents: Iterator[tuple[str, bytes]]
) -> Iterator[tuple[str, FeedbackReport, dict[str, Any]]]:
    """Act on reports; yield each with what was done about it."""
    feedback = _feedback(settings, ", or give --dry-run")
    maildir = Maildir(settings.feedback_dir)
    maildir.make()
    with asyncio.Runner() as runner:
        by_hand = runner.run(_ByHand.opened(settings, feedback, maildir))
        try:
            while some := list(islice(contents, _AT_ONCE)):
                done = runner.run(by_hand.act([content for _, content in some]))
                for (name, _), each in zip(some, done, strict=True):
                    report = each.understood.report
                    more = {
                        "new": [event in each.news for event in report.events],
                        "kept": each.understood.arrived.id if each.kept else None,
                        "waits": each.understood.arrived.id in by_hand.waiting,
                    }
                    yield name, report, more
        finally:
            runner.run(by_hand.close())
        if by_hand.waiting:
            reports = counted(len(by_hand.waiting), "report waits", "reports wait")
            click.echo(f"{reports} in the mailbox for answers from other relays", err=True)


class _ByHand:
    """Acts on reports in files, with a store that stays open meanwhile."""

    def __init__(self, settings: Settings, feedback: FeedbackSettings, maildir: Maildir) -> None:
        self.waiting: set[str] = set()
        self._maildir = maildir
        self._store = open_patiently(settings)
        self._log = open_feedback(settings.store, relay_id(settings.server.state_dir))
        self._breaker = open_breaker(settings, lambda: self._store)
        self._threads = ThreadPoolExecutor(1)
        self._messages = Messages.of(settings)
        self._reader = Reader.of(settings, feedback, self._messages, self._threads)
        tells = wants_feedback(settings.webhooks)
        self._actor = Actor(feedback, lambda: self._store, self._log, self._breaker, tells)

    @classmethod
    async def opened(
        cls, settings: Settings, feedback: FeedbackSettings, maildir: Maildir
    ) -> "_ByHand":
        return cls(settings, feedback, maildir)

    async def act(self, contents: Sequence[bytes]) -> Sequence[Done]:
        """Act on some reports. One that needs another relay's answer, or is to be forwarded or kept
        for a person, is put into the mailbox for the relay's own process."""
        understood = await self._reader.read(_arrived(contents))
        ready = []
        for one in understood:
            if one.lacks is not None and self._messages.may_be_elsewhere(one.lacks.id):
                self._maildir.deliver(one.arrived.id, one.arrived.content)
                self.waiting.add(one.arrived.id)
                continue
            if one.kept or one.hands_on:
                self._maildir.keep(one.arrived.id, one.arrived.content)
            ready.append(one)
        done = iter(await self._actor.act(ready))
        return [
            Done(one, (), kept=False) if one.arrived.id in self.waiting else next(done)
            for one in understood
        ]

    async def close(self) -> None:
        """Close everything, once the breaker has judged the streams reported on."""
        await self._breaker.settled()
        await self._reader.close()
        self._threads.shutdown()
        self._log.close()
        self._messages.close()
        self._breaker.close()
        await self._store.close()


def _with_log(settings: Settings, use: Callable[[FeedbackLog], Awaitable[T]]) -> T:
    async def session() -> T:
        with closing(open_feedback(settings.store)) as log:
            return await use(log)

    _feedback(settings)
    return asyncio.run(session())


@command("list")
def list_reports(settings: Settings) -> Result:
    """List the reports that could not be understood, oldest first."""
    found = _with_log(settings, lambda log: log.kept())
    columns = [Column("id"), Column("came"), Column("kind"), Column("why", prose=True)]
    rows = [[one.id, written_time(one.at), one.kind, one.why] for one in found]
    if any(one.relay for one in found):
        columns.insert(3, Column("relay"))
        for row, one in zip(rows, found, strict=True):
            row.insert(3, one.relay)
    parts: list[Part] = [Table(columns, rows)] if rows else ["no report is waiting for a person"]
    return Result([picked(one, "id", "at", "kind", "why", "relay") for one in found], parts)


@command("show")
def show(settings: Settings, id: str) -> Result:
    """Show a report that was kept; the first characters of its id are enough."""
    one = _one(settings, id)
    arrived = Maildir(settings.feedback_dir).read(one.id, _SHOWN)
    if arrived is None:
        elsewhere = f"; it is at relay {one.relay}" if one.relay else ""
        fail(f"{one.id}: the file is not in {settings.feedback_dir}{elsewhere}")
    text = arrived.content.decode("utf-8", "replace").replace("\r\n", "\n")
    head = [f"{one.id}, {one.kind}, received {written_time(one.at)}: {one.why}", ""]
    data = {**picked(one, "id", "at", "kind", "why"), "content": text}
    return Result(data, [*head, *text.split("\n")])


def _one(settings: Settings, beginning: str) -> ReadReport:
    found = _with_log(settings, lambda log: log.kept(beginning=beginning))
    if len(found) != 1:
        which = "no kept report begins" if not found else f"{len(found)} reports begin"
        fail(f"{which} with {beginning!r}: see smtpproxy feedback list")
    return found[0]


@command("assign")
def assign(
    settings: Settings,
    id: str,
    address: CanonicalAddress | None,
    meaning: Annotated[str, choice((*SUPPRESSIONS, "nothing"))] = option(
        "What the report says about the address.", name="--as", required=True
    ),
    stream: str | None = option("The stream of the message that the report is about."),
) -> Result:
    """Say what a report means, and act on it; this takes it off the list.

    `dead` and `full` suppress the address for all mail. `complaint` suppresses it for the brand
    of the stream and `unsubscribe` for its purpose; without --stream, for all marketing.
    """
    if stream is not None and stream not in settings.streams:
        unknown("stream", stream, settings.streams, "--stream")
    one = _one(settings, id)
    if meaning == "nothing":
        _with_log(settings, lambda log: log.looked_at(one.id, None, None))
        return Result({"id": one.id, "suppressed": None}, [f"{one.id}: off the list"])
    if address is None:
        fail(f"--as {meaning} needs an address: smtpproxy feedback assign ID ADDRESS", 2)
    meant = Class(meaning)
    scope = _scope(settings, meant, stream)
    origin, note = SUPPRESSIONS[meant]
    entry = SuppressionEntry(address, scope, origin, one.at, note)
    key = sha256(f"assigned {one.id}".encode()).digest()[:16]
    event = HeardEvent(key, meaning, stream or UNKNOWN)

    async def act(store: Store) -> None:
        await store.add_suppressions([entry])
        if wants_feedback(settings.webhooks):
            webhook_event = heard_event(
                key,
                at=now(),
                report=one.id,
                heard=event.kind,
                stream=event.stream,
                suppressed=scope,
            )
            await store.log_events([webhook_event])

    using_store(settings, act)
    _with_log(settings, lambda log: log.looked_at(one.id, address, event))
    text = f"{one.id}: {address} is suppressed, scope {scope}, origin {origin}"
    return Result({"id": one.id, "suppressed": address, "scope": scope, "origin": origin}, [text])


def _scope(settings: Settings, meaning: Class, name: str | None) -> str:
    stream = None if name is None else settings.streams.get(name)
    if meaning in (Class.DEAD, Class.FULL):
        return "all"
    if stream is None:
        return "marketing"
    if meaning is Class.COMPLAINT:
        return f"brand:{stream.brand}"
    return f"purpose:{stream.purpose}" if stream.purpose else "marketing"
