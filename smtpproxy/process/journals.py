"""The process for everything that relays of one store need from each other's journals: it erases
people whom others have erased, adds to the index of decisions, and answers about messages that came
back to others. No mail waits for it, and nothing is lost while it waits, because it reads the
journal and continues where the index ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import structlog

from smtpproxy.clock import now
from smtpproxy.erasure import carry_out
from smtpproxy.mailbox.messages import on_record
from smtpproxy.policy.model import Action, Reason
from smtpproxy.process.children import Channel, Start, until_it_works
from smtpproxy.process.nursery import lower_priority
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.chain import DECISION, NotALine
from smtpproxy.sinks.audit.erase import StillWritten
from smtpproxy.sinks.audit.following import Row, Tail
from smtpproxy.sinks.audit.lines import DecisionEntry, decided, is_erased, read_line
from smtpproxy.sinks.audit.reader import verdicts
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store import open_asked_messages, open_journals
from smtpproxy.store.journals import AskedMessages, IndexRow, SharedJournals
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.register import relay_id

_LOOK = 1.0  # seconds
_TELL = timedelta(seconds=10)
"""How often a relay reports that it is alive and asks how far the index goes."""
_FORGET = timedelta(minutes=1)
"""How often unclaimed answers are removed."""
_NEVER = datetime.min.replace(tzinfo=UTC)
_AT_ONCE = 100
"""Lines per commit: some milliseconds in the database, for which mail may have to wait."""
_ANSWERED_AT_ONCE = 100

log = structlog.get_logger()


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    lower_priority(10)
    return asyncio.run(_work(start.settings, channel))


async def _work(settings: Settings, sock: socket.socket) -> int:
    channel = await Channel.over(sock)
    journals = open_journals(settings.store)
    assert journals is not None
    relay = relay_id(settings.server.state_dir)
    asked = open_asked_messages(settings.store)
    assert asked is not None
    indexer = Indexer(settings, journals, relay, now=now)
    answers = MessageAnswers(
        settings.server.state_dir / "audit", asked, relay, indexer.alone, now=now
    )
    tasks = [
        asyncio.create_task(_keep(indexer.look)),
        asyncio.create_task(_keep(lambda: _erase(settings, journals, relay, indexer))),
        asyncio.create_task(_keep(answers.look)),
        asyncio.create_task(channel.keep_beating(indexer.snapshot)),
    ]
    await channel.until_drain()
    for task in tasks:
        task.cancel()  # what is not committed is read again
    await asyncio.gather(*tasks, return_exceptions=True)
    channel.close()
    journals.close()
    asked.close()
    return 0


async def _keep(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await until_it_works(work, "journals wait", (StoreUnavailable, StillWritten, OSError))
        await asyncio.sleep(_LOOK)


async def _erase(
    settings: Settings, journals: SharedJournals, relay: str, indexer: "Indexer"
) -> None:
    rows = await carry_out(settings, journals, relay, indexer.reopening)
    if rows:
        log.info("erased_from_record", rows=rows)


@dataclass(eq=False)
class Indexer:
    """Adds this relay's decisions to the index."""

    settings: Settings
    journals: SharedJournals
    relay: str
    now: Callable[[], datetime]

    def __post_init__(self) -> None:
        self._tail = Tail(self.settings.server.state_dir / "audit")
        self._read: Mapping[int, int] = {}
        self._told_at = _NEVER
        self.alone = asyncio.Lock()
        """Held while the journal is reported to others, or corrected after an erasure."""
        self._erased = 0  # how many times
        self._behind = 0
        self._oldest: datetime | None = None

    async def look(self) -> None:
        """Add everything new. Raises StoreUnavailable, OSError."""
        try:
            if not timedelta() <= self.now() - self._told_at < _TELL:
                host = self.settings.server.hostname
                self._read = await self.journals.tell(self.relay, host, self.now())
                self._told_at = self.now()
            erased = self._erased
            for slot, rows in self._tail.unread(self._read):
                while await self._add(slot, rows, erased):
                    await self._look_back()
        except StoreUnavailable:
            self._told_at = _NEVER  # perhaps another database answers next
            raise
        finally:  # not before: how far the index goes is not known at first
            await self._look_back()

    async def _look_back(self) -> None:
        self._behind, self._oldest = await asyncio.to_thread(self._tail.backlog, self._read)

    async def _add(self, slot: int, rows: Iterator[Row], erased: int) -> bool:
        """Add some rows; return whether there were any. After an erasure beyond `erased`, nothing:
        the file that is open still names whoever is erased."""
        async with self.alone:
            batch = []
            if self._erased == erased:  # on a thread: to find its place in a long file takes time
                batch = await asyncio.to_thread(list, islice(rows, _AT_ONCE))
            if batch:
                keep = self.settings.retention
                since = keep.indexed_since(self.now())  # a new index would cover old journals
                rows_of = (index_rows(self.relay, placed) for placed in batch)
                new = [row for some in rows_of for row in some if row.at >= since]
                read = {slot: batch[-1][1]}
                await self.journals.add(self.relay, new, read)
                self._read = {**self._read, **read}
        return bool(batch)

    @asynccontextmanager
    async def reopening(self) -> AsyncIterator[None]:
        """Keep those who are being erased out of the index: inside, nothing is added to it;
        afterwards the files, which the erasure has replaced, are opened again."""
        async with self.alone:
            yield
            self._erased += 1

    def snapshot(self) -> Snapshot:
        """Return how far the index is behind."""
        age = 0.0 if self._oldest is None else (self.now() - self._oldest).total_seconds()
        return Snapshot(
            gauges={
                "audit_index_backlog_rows": {(): self._behind},
                "audit_index_backlog_seconds": {(): max(age, 0.0)},
            }
        )


@dataclass(eq=False)
class MessageAnswers:
    """Answers other relays about messages that this one sent and that came back to them."""

    audit: Path
    asked: AskedMessages
    relay: str
    alone: asyncio.Lock
    now: Callable[[], datetime]
    _forgot_at: datetime = _NEVER

    async def look(self) -> None:
        """Answer all questions. Raises StoreUnavailable, OSError."""
        if not timedelta() <= self.now() - self._forgot_at < _FORGET:
            await self.asked.forget(self.now())
            self._forgot_at = self.now()
        while ids := await self.asked.asked(self.relay, _ANSWERED_AT_ONCE):
            async with self.alone:
                messages = await asyncio.to_thread(
                    lambda ids: {id: on_record(self.audit, id) for id in ids}, ids
                )
                await self.asked.answer(self.relay, messages, self.now())


def index_rows(relay: str, placed: Row) -> Iterator[IndexRow]:
    """Yield the index rows of a line: one for each recipient of a decision."""
    file, number, raw = placed
    if DECISION not in raw:
        return
    try:
        line = read_line(raw)
        if not isinstance(line.entry, DecisionEntry):
            return
        one = decided(line, line.entry)
    except NotALine:
        return  # `audit verify` reports it
    stream, message = one.decision.stream, one.decision.message
    judged = [
        (verdict, None if is_erased(recipient) else recipient.canonical)
        for verdict, recipient in zip(verdicts(one), one.recipients, strict=True)
    ]
    for place, (verdict, canonical) in enumerate(judged or [(message, None)]):
        yield IndexRow(
            *(relay, file, number, place, one.id, one.at, stream.name, stream.brand),
            Action.ALLOW if verdict is None else verdict.action,
            Reason.NONE if verdict is None else verdict.reason,
            one.observed,
            canonical,
        )
