"""A store is written to while it is copied, and copies are interrupted: nothing is lost, and
nobody erased is left."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from smtpproxy.policy.model import ConsentAct, Contact, Lookups, Origin, Source
from smtpproxy.store import open_confirmation_limit, open_mailings
from smtpproxy.store.closed import closed_text
from smtpproxy.store.move import (
    CopyEnd,
    CopyResult,
    copying,
    move,
    postgres,
    postgres_target,
    reading,
    sqlite,
    sqlite_target,
    tables,
)
from smtpproxy.store.move.ends import Reopened
from smtpproxy.store.move.sqlite import part_path
from smtpproxy.store.operations import Correction, Limits
from smtpproxy.store.records import StoreUnavailable, SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.kit import postgres as server
from tests.kit.parts import needs
from tests.store.conftest import Database, OnPostgresql
from tests.store.imports_contract import begun
from tests.store.test_mailings import OFFERS

pytestmark = needs("postgresql")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PEOPLE = [f"p{n}@people.example" for n in range(8)]
Event = Callable[[], Awaitable[object]]


class Killed(Exception):
    """Stands for a process killed at that point."""


async def killed() -> None:
    raise Killed


async def nothing() -> None:
    pass


class Meanwhile:
    """A source where the next of `events` happens before each query, until writes are stopped."""

    def __init__(self, source: Any, events: list[Event]) -> None:
        self._source = source
        self._events = events
        self._is_stopped = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def fetch(self, *asked: Any) -> Any:
        if self._events and not self._is_stopped:
            await self._events.pop(0)()
        return await self._source.fetch(*asked)

    @asynccontextmanager
    async def writes_stopped(self) -> AsyncIterator[None]:
        async with self._source.writes_stopped():
            self._is_stopped = True
            yield


@asynccontextmanager
async def meanwhile(source: Any, events: list[Event]) -> AsyncIterator[Any]:
    async with source as opened:
        yield Meanwhile(opened, events)


def place(url: str, folder: Path, events: list[Event]) -> CopyEnd:
    path = Path(url.removeprefix("sqlite://"))
    if url.startswith("postgresql"):
        source: Any = postgres.open_source(url, 5.0)
        target: Any = postgres_target.open_target(url, 5.0, "relay")
    else:
        source = sqlite.open_source(path, 5.0)
        target = sqlite_target.open_target(path, folder)
    return CopyEnd(url, meanwhile(source, events), target)


async def moved(
    old: str,
    new: str,
    folder: Path,
    events: Sequence[Event] = (),
    say: Callable[[str], None] = lambda _: None,
) -> CopyResult:
    to = place(new, folder, [])
    text = closed_text(old, to.shown)
    return await move(place(old, folder, list(events)), to, text, folder, say)


class Write(Struct, frozen=True):
    """A write to the store during the copy, about one of the people."""

    what: str
    person: int = 0

    async def to(self, database: Database, store: Store) -> None:
        address = PEOPLE[self.person]
        match self.what:
            case "suppress":
                await store.add_suppressions([entry(address)])
            case "lift":
                await store.remove_suppression(address, at=NOW, reason="asked")
            case "put":
                await store.put_contacts([known(address)])
            case "act":
                await store.record_act(address, ConsentAct("offers", NOW, method="implied"))
            case "erase":
                await store.erase_contact(address, at=NOW)
            case "rectify":
                correction = Correction(new_address=f"new{self.person}@people.example")
                await store.rectify(address, correction, at=NOW, reason="moved")
            case "import":
                await (await begun(store)).contacts(known(address), known("i@people.example"))
            case "undo":
                for one in await store.imports():
                    await store.undo_import(one.id, at=NOW, by="root")
            case "rekey":
                await store.start_rekey(at=NOW, force=True)
                await store.rekey(PEOPLE)
                await store.finish_rekey(at=NOW)
            case "purge":
                limits = Limits(NOW, NOW, frozenset(), objected=NOW)
                await store.purge_contacts(limits, at=NOW + timedelta(days=900))
                await store.purge_lifted(NOW + timedelta(days=900))
            case "mail":
                log = database.part(open_mailings(database.settings()))
                await log.reserve(f"id{next(_NUMBERS)}", OFFERS, [address], NOW)


_NUMBERS = count()


WHAT = ("suppress", "lift", "put", "act", "erase", "rectify", "import", "undo", "purge", "mail")
WRITES = st.builds(Write, st.sampled_from(WHAT), st.integers(0, len(PEOPLE) - 1))
MEANWHILE = WRITES | WRITES | st.just(Write("rekey"))


def entry(address: str) -> SuppressionEntry:
    return SuppressionEntry(address, "marketing", Origin.UNSUBSCRIBE, NOW - timedelta(days=1))


def known(address: str) -> Contact:
    act = ConsentAct("offers", NOW - timedelta(days=3), method="unticked_box")
    return Contact(address, source=Source.DIRECT, collected_at=NOW, acts=(act,))


async def contents(url: str) -> dict[str, list[str]]:
    """All rows of a database, even of a closed one."""
    found: dict[str, list[str]] = {}
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        for table in tables.TABLES:
            rows = await connection.fetch(f'SELECT * FROM "{table}"')
            kept = [{k: v for k, v in row.items() if k not in tables.OF_RELAYS} for row in rows]
            found[table] = sorted(repr(sorted(row.items())) for row in kept)
        await connection.close()
        return found
    for part, held in tables.PARTS.items():
        path = part_path(Path(url.removeprefix("sqlite://")), part)
        with closing(sqlite3.connect(path)) as opened:
            opened.row_factory = sqlite3.Row
            for table in held:
                everything = opened.execute(f'SELECT * FROM "{table}"').fetchall()
                found[table] = sorted(repr(sorted(dict(row).items())) for row in everything)
    return found


async def written_meanwhile(
    database: Database, new: str, first: list[Write], events: list[Write | int | None]
) -> None:
    """`events` are writes, numbers of queries without one, or None, which kills the copy."""
    store = database.open()

    def event(write: Write) -> Event:
        return lambda: write.to(database, store)

    for write in first:
        await write.to(database, store)
    happening: list[Event] = []
    for one in events:
        if isinstance(one, Write):
            happening.append(event(one))
        else:
            happening += [killed] if one is None else [nothing] * one
    while True:
        to = place(new, database.folder, [])
        old = place(database.url, database.folder, happening)
        try:
            done = await move(old, to, closed_text(old.url, to.shown), database.folder, _silent)
            break
        except Killed:
            continue
    await database.close()
    there = await contents(new)
    assert there == await contents(database.url)
    assert {table: sum.rows for table, sum in done.sums.items()} == {
        table: len(rows) for table, rows in there.items()
    }


def _silent(_: str) -> None:
    pass


FIRST = st.lists(WRITES, min_size=3, max_size=8)
EVENTS = st.lists(st.integers(0, 60) | MEANWHILE | MEANWHILE | st.none(), max_size=20)


@pytest.fixture(autouse=True, scope="module")
def small_steps() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BATCH", 2)
        patch.setattr(copying, "_FEW_CHANGES", 0)
        yield


@settings(deadline=None, max_examples=5, phases=[Phase.generate])
@given(first=FIRST, events=EVENTS)
def test_writes_during_a_copy_reach_postgresql(
    first: list[Write], events: list[Write | int | None]
) -> None:
    with TemporaryDirectory() as folder, OnPostgresql(Path(folder)) as new:
        old = Database(Path(folder))
        asyncio.run(written_meanwhile(old, new.url, first, events))


@settings(deadline=None, max_examples=5, phases=[Phase.generate])
@given(first=FIRST, events=EVENTS)
def test_writes_during_a_copy_reach_the_file(
    first: list[Write], events: list[Write | int | None]
) -> None:
    with TemporaryDirectory() as folder, OnPostgresql(Path(folder)) as old:
        new = f"sqlite://{folder}/new.db"
        asyncio.run(written_meanwhile(old, new, first, events))
        asyncio.run(postgres.reopen(old.url, 5.0))  # the database is lent to other tests


async def test_every_kind_of_write_is_copied_after_its_rows_were(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    database, new = kinds
    store = database.open()
    for what in ("put", "suppress", "mail"):
        for person in range(4):
            await Write(what, person).to(database, store)
    await Write("import", 5).to(database, store)
    events: list[Event] = []
    late = [Write(what, person % 5) for person, what in enumerate([*WHAT, "rekey"])]

    def say(text: str) -> None:
        if text.startswith("all rows are copied"):
            events.extend(partial(write.to, database, store) for write in late)
            late.clear()  # rekeying makes it compare everything again

    to = place(new, tmp_path, [])
    await move(place(database.url, tmp_path, events), to, "closed", tmp_path, say)
    assert not events
    assert await contents(new) == await contents(database.url)


async def test_people_erased_between_rounds_are_not_in_the_copy(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    """Even if the copy was killed meanwhile, and in no octet of a file."""
    database, new = kinds
    store = database.open()
    gone = "somebody.unheard.of@people.example"
    await store.put_contacts([known(name) for name in [*PEOPLE, gone, "z@people.example"]])
    await store.add_suppressions([entry(gone)])
    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, [nothing] * 70 + [killed])
    assert gone in str(await contents(half(new)))
    await store.erase_contact(gone, at=NOW)
    said: list[str] = []
    done = await moved(database.url, new, tmp_path, say=said.append)
    assert done.resumed, said
    assert gone not in str(await contents(new))
    if new.startswith("sqlite"):
        assert gone.encode() not in (tmp_path / "new.db").read_bytes()


def half(url: str) -> str:
    """Where an unfinished copy has its rows."""
    return url.replace("/new.db", "/.new.db.copy/new.db")


@pytest.fixture(params=["sqlite", "postgresql"])
async def kinds(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Database, str]]:
    """A database of one kind, and the URL for its copy of the other kind."""
    file = Database(tmp_path)
    server.cluster()  # in the main thread: PostgreSQL ends with it
    with await asyncio.to_thread(OnPostgresql, tmp_path) as on_server:
        if request.param == "sqlite":
            yield file, on_server.url
            await file.close()
        else:
            yield on_server, f"sqlite://{tmp_path}/new.db"
            await on_server.close()
            await postgres.reopen(on_server.url, 5.0)


class AtContact(Meanwhile):
    """A source where the events happen between pages of contacts."""

    async def fetch(self, table: str, *asked: Any) -> Any:
        if table == "contact":
            return await super().fetch(table, *asked)
        return await self._source.fetch(table, *asked)


async def test_two_contacts_swap_addresses_while_they_are_copied(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    """The last one then has the address under which the first one was copied."""
    database, new = kinds
    await database.open().put_contacts([known(name) for name in PEOPLE])
    steps = [(PEOPLE[0], "x"), (PEOPLE[7], PEOPLE[0]), ("x", PEOPLE[7])]

    async def swap() -> None:
        for before, after in steps:
            text = f"UPDATE contact SET address = '{after}' WHERE address = '{before}'"
            await run(database.url, text)

    events: list[Event] = [*[nothing] * 4, swap]
    old, to = place(database.url, tmp_path, []), place(new, tmp_path, [])

    @asynccontextmanager
    async def source() -> AsyncIterator[Any]:
        async with old.source as opened:
            yield AtContact(opened, events)

    between = CopyEnd(old.url, source(), old.target)
    await move(between, to, "closed", tmp_path, _silent)
    assert not events
    assert await contents(new) == await contents(database.url)


# Like somebody who knows the number of the copy.
_BY_ITS_NUMBER = """
SELECT set_config('smtpproxy.copying', number, FALSE) FROM pg_trigger,
    substring(pg_get_triggerdef(oid) FROM $$DISTINCT FROM '([^']+)$$) AS number
WHERE tgname = 'closed' LIMIT 1
"""


async def run(url: str, statement: str) -> None:
    """Run a statement by hand, even in an unfinished copy."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        await connection.execute(_BY_ITS_NUMBER)
        await connection.execute(statement)
        await connection.close()
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as opened, opened:
            opened.execute(statement)


async def test_identical_rows_keep_their_number(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    database, new = kinds
    await database.open().put_contacts([known(PEOPLE[0])])
    one = open_confirmation_limit(database.settings())
    for person in (0, 1, 1, 1, 1, 1, 2):
        await one.take(PEOPLE[person], NOW, per_address=9, per_day=99)

    async def give_back() -> None:
        await one.give_back(PEOPLE[1], NOW)
        await one.take(PEOPLE[0], NOW, per_address=9, per_day=99)
        await one.take(PEOPLE[0], NOW, per_address=9, per_day=99)

    done = await moved(database.url, new, tmp_path, [*[nothing] * 100, give_back])
    one.close()
    assert done.sums["confirmation"].rows in (4, 8)
    assert await contents(new) == await contents(database.url)


async def test_a_copy_of_another_store_or_of_an_older_state_is_not_resumed(
    tmp_path: Path, kinds: tuple[Database, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, new = kinds
    await database.open().put_contacts([known(name) for name in PEOPLE])
    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, [*[nothing] * 20, killed])
    await reopened(database.url)  # gives up the copy: changes are no longer recorded
    said: list[str] = []
    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, [*[nothing] * 20, killed], said.append)
    assert "starting again" in said[0]
    assert "no longer on record" in said[0]
    said.clear()
    monkeypatch.setattr(copying, "numbered", lambda _: [])  # a release with other migrations
    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, [*[nothing] * 20, killed], said.append)
    assert "starting again" in said[0]
    monkeypatch.undo()
    with pytest.raises(Killed):
        await moved(database.url, new, tmp_path, [*[nothing] * 20, killed])
    # As after a restore of the source, which lacks changes that were copied, and their record.
    await run(half(new), "DELETE FROM contact WHERE id = (SELECT min(id) FROM contact)")
    with pytest.raises(StoreUnavailable, match="contact has 7 rows") as failed:
        await moved(database.url, new, tmp_path)
    assert "starts from the beginning" in failed.value.__notes__[0]
    said.clear()
    assert not (await moved(database.url, new, tmp_path, say=said.append)).resumed
    assert "starting again" in said[0]
    assert await contents(new) == await contents(database.url)


async def reopened(url: str) -> Reopened | None:
    if url.startswith("postgresql"):
        return await postgres.reopen(url, 4.0)  # over a connection of its own
    return await sqlite.reopen(Path(url.removeprefix("sqlite://")), 5.0)


async def test_a_running_copy_cannot_be_given_up(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    database, new = kinds

    async def give_up() -> None:
        if database.url.startswith("postgresql"):
            reopening = postgres.reopen(database.url, 1.5)
        else:
            reopening = reopened(database.url)
        with pytest.raises(StoreUnavailable, match="is running on it; wait until that has ended"):
            await reopening

    await database.open().put_contacts([known(name) for name in PEOPLE])
    await moved(database.url, new, tmp_path, [*[nothing] * 20, give_up])


@pytest.mark.parametrize("kinds", ["sqlite"], indirect=True)  # the files of a copy have no name yet
async def test_a_database_being_filled_refuses_reads_and_writes(
    tmp_path: Path, kinds: tuple[Database, str]
) -> None:
    database, new = kinds
    await database.open().put_contacts([known(name) for name in PEOPLE])
    there = Database(tmp_path, new)
    store, mailings = there.open(), there.part(open_mailings(there.settings()))

    async def write() -> None:
        with pytest.raises(StoreUnavailable, match="is being filled"):
            await store.add_suppressions([entry(PEOPLE[0])])
        with pytest.raises(StoreUnavailable, match="is being filled"):
            await mailings.reserve("1", OFFERS, [PEOPLE[0]], NOW)
        with pytest.raises(StoreUnavailable, match="is being filled"):
            await store.facts(Lookups((PEOPLE[0],)))
        with pytest.raises(StoreUnavailable, match="is running on it; wait until that has ended"):
            async with postgres_target.open_target(new, 1.5, "relay"):
                pass
        with pytest.raises(StoreUnavailable, match="is running on it; wait until that has ended"):
            await postgres.reopen(new, 1.5)

    await moved(database.url, new, tmp_path, [*[nothing] * 20, write])
    assert (await store.facts(Lookups((PEOPLE[0],)))).get(PEOPLE[0]) is not None
    await store.add_suppressions([entry(PEOPLE[0])])
    await there.close()
