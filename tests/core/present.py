"""Drives the transactions of `smtpproxy.core`; the test answers every effect."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from smtpproxy.core.advice import DelegatedTransaction, MilterTransaction
from smtpproxy.core.effects import Steps
from smtpproxy.core.perform import Performer, drive
from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import Client, Decided, Relayed
from smtpproxy.locale import notice_texts
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import (
    Action,
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    Facts,
    Frequency,
    Lookups,
    Origin,
    Preference,
    RecipientFacts,
    Source,
    Stream,
    StreamClass,
    Suppression,
)
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.relay.connection import UpstreamConnection, UpstreamUnreachable
from smtpproxy.relay.content import Content, Spool
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.settings import TcpAddress, UpstreamSettings
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.mailings import Mailed
from smtpproxy.waiting import Deadlines
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import stuffed
from tests.core.driving import Answer, Question, Recorded, Setting
from tests.core.world import Past, Result, Upstream, World

T = TypeVar("T")

_CLIENT = Client("apps", "192.0.2.9", "client.example")
_GO_ON = Answer(250, "go on")


def streams(setting: Setting) -> dict[str, Stream]:
    late = setting.refuses_at_data
    offers = Stream(
        name="offers",
        purpose="offers",
        refuse_at_data=late,
        unsubscribe_scope="marketing" if setting.adds_links else None,
        verp=setting.returns,
    )
    receipts = Stream(name="receipts", stream_class=StreamClass.TRANSACTIONAL, refuse_at_data=late)
    return {"offers": offers, "receipts": receipts}


class _Loop(asyncio.SelectorEventLoop):
    """Stops once nothing can go on.

    No time passes and nothing arrives from outside, so it polls neither: that saves a third of a
    walk's time. It runs by the test's clock, since by the machine's the same walk could differ."""

    seconds = 0.0

    def time(self) -> float:
        return self.seconds

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        while ready:
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        self.stop()


class Present:
    """A `Driver`."""

    def __init__(
        self, world: World, setting: Setting, given: Mapping[str, Stream] | None = None
    ) -> None:
        """`given` streams replace those that the setting makes."""
        self.client_is_there = True  # and waits for its answer
        self.spool_is_broken = False
        self.notify: str | None = None  # NOTIFY of the clients, RFC 3461
        self.eight_bit = False  # clients say BODY=8BITMIME
        self.events: list[object] = []  # what transactions told the sinks
        self.outcomes: list[Relayed] = []  # the upstream's answers, for the record
        self.loop = _Loop()
        self._world = world
        self._setting = setting
        self._streams = given or streams(setting)
        self._pool = _Pool(world, self.loop)
        self._tasks: set[asyncio.Task[Any]] = set()
        numbers = count(1)
        outside = self.outside = _Outside(world, self.loop, standby=setting.standby)
        self.services = Services(
            hostname="relay.example",
            stream_header="X-Mail-Stream",
            on_mixed=setting.on_mixed,
            rulebooks={"fr": builtin("fr")},
            emit=self.events.append,
            note_outcome=self.outcomes.append,
            open_upstream=partial(UpstreamTransaction, self._pool),
            notice_texts=notice_texts("en"),
            now=lambda: world.now,
            ticks=lambda: 0.0,
            new_id=lambda: f"{next(numbers):026}",
            links=_Links(),
            return_path=lambda *made: f"{made[-1].replace('@', '=')}@bounces.example",
            counts_mailings=True,
            record_waits=True,
            reads_standby=setting.standby,
        )
        self.performer = Performer(
            outside,
            outside,
            mailings=outside,  # type: ignore[arg-type]
            copies=outside,
        )

    def begin(self, reverse_path: str, streams: Sequence[str]) -> "_Relayed | _Asked":
        permitted = [self._streams[name] for name in streams]
        choice = StreamChoice.of(permitted, permitted[0])
        if self._setting.relays:
            each = "each" if self._setting.intake == "lmtp" else None
            mail = MailParameters(reverse_path, eight_bit=self.eight_bit)
            transaction = RelayTransaction(self.services, _CLIENT, mail, choice, "ESMTP", each)
            return _Relayed(self, transaction)
        if self._setting.intake == "milter":
            advised = MilterTransaction(
                self.services, _CLIENT, reverse_path, choice, refuses_at_rcpt=True, can_delete=True
            )
            return _Milter(self, advised, self._world)
        consulted = DelegatedTransaction(self.services, _CLIENT, reverse_path, choice)
        return _Policy(self, consulted, self._world)

    def settle(self) -> None:
        self.loop.run_forever()
        while not self._world.outstanding and self._pool.lets_a_second_pass():
            self.loop.run_forever()

    def run(self, work: Callable[[], None]) -> None:
        """Do something on the loop."""
        self.loop.call_soon(work)
        self.settle()

    def held(self) -> int:
        return self._pool.busy

    @property
    def upstreams(self) -> list[Upstream]:
        """The far ends of the upstream connections, in order."""
        return self._pool.upstreams

    @property
    def connections(self) -> list[UpstreamConnection]:
        return self._pool.connections

    def cancel(self) -> None:
        """Cancel whatever is under way, as when the process ends."""
        for task in self._tasks:
            task.cancel()
        self.settle()

    def close(self) -> None:
        self.cancel()
        self.run(self._pool.close)
        self.loop.close()

    async def drive(self, steps: Steps[T]) -> T:
        return await drive(steps, self.performer.handlers)

    def ask(self, work: Coroutine[Any, Any, Sequence[Answer]], about: Sequence[str]) -> Question:
        question = Question(tuple(about))

        async def run() -> None:
            try:
                question.answers = await work
            except Exception as error:
                question.error = error

        task = self.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.settle()
        return question


class _Relayed:
    def __init__(self, driver: Present, transaction: RelayTransaction) -> None:
        self._driver = driver
        self._transaction = transaction
        self._accepted: list[str] = []

    @property
    def id(self) -> str:
        return self._transaction.id

    def rcpt(self, *paths: str) -> Question:
        async def work() -> Sequence[Answer]:
            rcpts = [Rcpt(path, notify=self._driver.notify) for path in paths]
            asked = self._transaction.recipients(rcpts)
            replies = await self._driver.drive(asked)
            self._accepted += [p for p, r in zip(paths, replies, strict=True) if r.code < 300]
            return _answers(replies)

        return self._driver.ask(work(), paths)

    def data(self, content: bytes) -> Question:
        async def work() -> Sequence[Answer]:
            spooled = _Spooled(Spool(Path(), threshold=1 << 30), driver=self._driver)
            spooled.append(stuffed(content))
            is_there = lambda: self._driver.client_is_there  # noqa: E731
            return _answers(await self._driver.drive(self._transaction.message(spooled, is_there)))

        return self._driver.ask(work(), self._accepted)

    def abort(self) -> None:
        self._driver.run(self._transaction.abort)


class _Spooled(Content):
    """Content that cannot be read while the spool is broken."""

    driver: Present | None = None

    def pieces(self, skip: int = 0) -> Iterator[bytes]:
        for piece in super().pieces(skip):
            assert self.driver is not None
            if self.driver.spool_is_broken:
                raise OSError(5, "Input/output error")
            yield piece


class _Asked:
    """A message that an MTA asks about; it goes on with whoever is not refused."""

    def __init__(
        self, driver: Present, transaction: MilterTransaction | DelegatedTransaction, world: World
    ) -> None:
        self._driver = driver
        self._transaction = transaction
        self._world = world
        self._accepted: list[str] = []

    @property
    def id(self) -> str:
        return self._transaction.id

    def rcpt(self, *paths: str) -> Question:
        (path,) = paths

        async def work() -> Sequence[Answer]:
            reply = await self._driver.drive(self._transaction.recipient(path))
            if reply is not None:
                return _answers([reply])
            self._accepted.append(path)
            return [_GO_ON]

        return self._driver.ask(work(), paths)

    def data(self, content: bytes) -> Question:
        return self._driver.ask(self._end(content), self._accepted)

    def abort(self) -> None:
        """An MTA simply begins another message."""

    async def _end(self, content: bytes) -> Sequence[Answer]:
        raise NotImplementedError


class _Milter(_Asked):
    _transaction: MilterTransaction

    async def _end(self, content: bytes) -> Sequence[Answer]:
        header = content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        is_there = lambda: self._driver.client_is_there  # noqa: E731
        steps = self._transaction.message(header, len(content), "4QID", mta_is_there=is_there)
        advice = await self._driver.drive(steps)
        if advice.reply is not None:
            return _answers([advice.reply]) * len(self._accepted)
        self._world.hand_over([each for each in self._accepted if each not in advice.deleted])
        return [_GO_ON] * len(self._accepted)


class _Policy(_Asked):
    """Like `intake.policy`, it looks again at the end."""

    _transaction: DelegatedTransaction

    async def _end(self, content: bytes) -> Sequence[Answer]:
        refusal = await self._driver.drive(self._transaction.still_permitted())
        if refusal is not None:
            return _answers([refusal]) * len(self._accepted)
        self._transaction.passed(len(content))
        self._transaction.ended()
        self._world.hand_over(self._accepted)
        return [_GO_ON] * len(self._accepted)


class _Outside:
    """The store, the count of mailings and the journal, all of which ask the world."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop, *, standby: bool) -> None:
        self._world = world
        self._loop = loop
        self._standby = standby
        self.forgets = True  # otherwise the ledger of copies cannot be written
        self.copies: dict[tuple[str, bytes], set[str]] = {}

    async def facts(self, lookups: Lookups) -> Facts:
        names = lookups.addresses
        return await self._asked(
            "facts", names, lambda: facts_of(self._world, names), StoreUnavailable
        )

    async def read(self, lookups: Lookups) -> tuple[Facts, object]:
        names, past = lookups.addresses, self._world.past
        if self._standby and lookups.provisional:
            state = facts_of(past, past.people)
            told = lambda: (facts_of(past, names), state)  # noqa: E731
            return await self._asked("facts", names, told, StoreUnavailable)
        version = await self.version()
        return await self.facts(lookups), version

    async def version(self) -> object:
        state = lambda: facts_of(self._world, self._world.people)  # noqa: E731
        return await self._asked("version", [], state, StoreUnavailable)

    async def find(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> frozenset[str]:
        key = reverse_path, digest()
        found = lambda: frozenset(forward_paths) & self.copies.get(key, set())  # noqa: E731
        return await self._asked("copies", [], found, StoreUnavailable)

    async def note(self, reverse_path: str, digest: Callable[[], bytes], forward_path: str) -> None:
        self.copies.setdefault((reverse_path, digest()), set()).add(forward_path)

    async def forget(
        self, reverse_path: str, digest: Callable[[], bytes], forward_paths: Collection[str]
    ) -> None:
        if not self.forgets:
            raise StoreUnavailable("the ledger of copies is full")
        self.copies.get((reverse_path, digest()), set()).difference_update(forward_paths)

    def close(self) -> None:
        pass

    async def reserve(
        self, id: str, stream: str, addresses: Iterable[str], at: object
    ) -> Mapping[str, Mailed]:
        names = set(addresses)

        def counted() -> Mapping[str, Mailed]:
            self._world.counted.setdefault(id, set()).update(names)
            return {}

        return await self._asked("count", names, counted, StoreUnavailable)

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        names = set(addresses)
        counted = self._world.counted
        take_back = lambda: counted[id].difference_update(names)  # noqa: E731
        await self._asked("release", names, take_back, StoreUnavailable)

    async def commit(self, decided: Decided) -> None:
        line = _recorded(decided)
        names = [each.canonical for each in decided.recipients]
        note = lambda: self._world.journal.append(line)  # noqa: E731
        await self._asked("record", names, note, AuditUnavailable)

    async def _asked(
        self,
        kind: str,
        about: Iterable[str],
        value: Callable[[], T],
        failure: type[Exception],
    ) -> T:
        future: asyncio.Future[T] = self._loop.create_future()

        def answer(result: Result) -> None:
            if future.done():
                return
            if result == "ok":
                future.set_result(value())
            else:
                future.set_exception(failure(f"the {kind} failed"))

        self._world.ask(kind, about, answer)
        return await future


def facts_of(world: World | Past, names: Iterable[str]) -> Facts:
    """What a store would say about these people now."""
    return {name: _facts(world, name) for name in names if name in world.people}


def _facts(world: World | Past, name: str) -> RecipientFacts:
    person, now = world.people[name], world.now
    given = ConsentAct("offers", now, method="unticked_box", evidence=Evidence("form v3"))
    acts = [given] if person.consents else [given, ConsentAct("offers", now, withdrawal=True)]
    suppressions = [Suppression(scope, Origin.COMPLAINT, now) for scope in sorted(person.scopes)]
    if person.erased:
        suppressions.append(Suppression("marketing", Origin.ERASURE, now))
    wished_at = person.wished_at
    wishes = (Preference("offers", Frequency.WEEKLY, wished_at),) if wished_at else ()
    return RecipientFacts(
        tuple(suppressions),
        Contact(
            name, audience=Audience.CONSUMER, source=Source.DIRECT,
            collected_at=now, informed_at=now, optout_offered=True, acts=tuple(acts),
            preferences=wishes,
        ),
    )  # fmt: skip


class _Links:
    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        link = f"https://unsubscribe.shop.example/u/{id}.{address.partition('@')[0]}"
        return (
            f"List-Unsubscribe: <{link}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        ).encode()


class _Pool(UpstreamPool):
    """The real pool and its real connections; their far end is in the world."""

    def __init__(self, world: World, loop: _Loop) -> None:
        self.upstreams: list[Upstream] = []
        self.connections: list[UpstreamConnection] = []
        self._world = world
        self._loop = loop
        settings = UpstreamSettings(TcpAddress("192.0.2.1", 25), max_connections=64)
        self._counts: Counter[int] = Counter()
        super().__init__(settings, "relay.example", Deadlines(loop), self._counts)

    def lets_a_second_pass(self) -> bool:
        """Whether messages were waiting for that."""
        if self._again is None:
            return False
        self._again.cancel()
        self._loop.seconds += 1
        self._loop.call_soon(self._try_again)
        return True

    async def _connect(self) -> UpstreamConnection:
        asked: asyncio.Future[Result] = self._loop.create_future()
        self._world.ask("connect", [], asked.set_result)
        if await asked != "ok":
            raise UpstreamUnreachable("refused")
        connection = _Connection(self.deadlines, self._counts, self._drop_dead)
        on_loop = self._loop.call_soon  # like anything that arrives over a socket
        upstream = Upstream(
            self._world,
            lambda data: on_loop(connection.data_received, data),
            lambda: on_loop(connection.connection_lost, None),
        )
        self.upstreams.append(upstream)
        self.connections.append(connection)
        connection.connection_made(_Transport(upstream, connection, on_loop))
        upstream.greet()
        await connection.open("relay.example", 60.0)
        return connection


class _Connection(UpstreamConnection):
    BATCH = 1  # so that even little content can make an upstream slow


class _Transport(asyncio.WriteTransport):
    def __init__(
        self,
        upstream: Upstream,
        connection: UpstreamConnection,
        on_loop: Callable[[Callable[[], None]], object],
    ) -> None:
        super().__init__()
        self._upstream = upstream
        self._connection = connection
        self._on_loop = on_loop

    def write(self, data: Any) -> None:
        self._upstream.receive(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self._upstream.receive(b"".join(list_of_data))
        if self._upstream.reads_slowly(lambda: self._on_loop(self._connection.resume_writing)):
            self._connection.pause_writing()

    def close(self) -> None:
        self._upstream.hang_up()


def _recorded(decided: Decided) -> Recorded:
    message = decided.decision.message
    allowed = {r.canonical for r in decided.recipients if r.verdict.action is Action.ALLOW}
    refused = {r.canonical for r in decided.recipients} - allowed
    stopped = message is not None and message.action is not Action.ALLOW
    return Recorded(
        decided.id,
        decided.relayed,
        frozenset(allowed),
        frozenset(refused),
        stopped,
        tuple(each.address for each in decided.recipients),
        at_rcpt=decided.stage == "rcpt",
        notice=decided.stage == "notice",
    )


def _answers(replies: Sequence[Reply]) -> list[Answer]:
    return [Answer(reply.code, str(reply).partition(" ")[2]) for reply in replies]
