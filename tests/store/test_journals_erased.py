"""Erasures that relays sharing a store request of each other, carried out in journal and index."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.config import load
from smtpproxy.erasure import carry_out, erase_outstanding, erase_record
from smtpproxy.process.journals import Indexer
from smtpproxy.settings import Settings
from smtpproxy.store import open_journals
from smtpproxy.store.import_jobs import ImportJob, ImportJobs, JobEnd
from smtpproxy.store.journals import IndexQuery, SharedJournals
from smtpproxy.store.register import relay_id
from tests.kit import postgres
from tests.kit.journal import Clock, decided, journal
from tests.kit.parts import needs
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.store.conftest import OnPostgresql
from tests.store.contract import ANNA

pytestmark = needs("postgresql")
ODD = ANNA.replace("@", "%") + "@localhost"  # an MTA may read it as her address


class Relay:
    """One relay's part, without its process."""

    def __init__(self, settings: Settings, journals: SharedJournals) -> None:
        self.settings, self.journals = settings, journals
        self.state_dir = settings.server.state_dir
        self.clock = Clock()

    async def decides(self, people: Sequence[str]) -> None:
        log = journal(self.state_dir / "audit", self.clock)
        for person in people:
            await log.commit(decided(self.clock, person))
        log.close()

    async def follows(self) -> int:
        """Do what its process does once a second, and return how many rows were erased."""
        relay = relay_id(self.state_dir)
        indexer = Indexer(self.settings, self.journals, relay, now=self.clock.now)
        await indexer.look()
        return await carry_out(self.settings, self.journals, relay, indexer.reopening)

    def text(self) -> bytes:
        return b"".join(path.read_bytes() for path in (self.state_dir / "audit").glob("*-0.ndjson"))


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    postgres.cluster()
    path = tmp_path / "smtpproxy.toml"
    path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:9")))
    with OnPostgresql(tmp_path) as database:
        settings = replace(load(path), store=database.settings())
        journals = open_journals(settings.store)
        assert journals is not None
        yield Relay(settings, journals)
        journals.close()


async def test_a_restored_journal_is_erased_again(relay: Relay, tmp_path: Path) -> None:
    await relay.decides([ANNA])
    assert await relay.follows() == 0
    shutil.copytree(relay.state_dir, tmp_path / "copy")
    await relay.journals.add_erasure(ANNA, relay.clock.now())
    assert (await relay.follows(), await relay.follows()) == (1, 0)

    shutil.rmtree(relay.state_dir)
    shutil.copytree(tmp_path / "copy", relay.state_dir)
    assert ANNA.encode() in relay.text()
    assert (await relay.follows(), await relay.follows()) == (1, 0)
    assert ANNA.encode() not in relay.text()
    assert not await relay.journals.find(IndexQuery(recipients=(ANNA,)), 10)


async def test_people_erased_while_the_journal_is_read_do_not_reach_the_index(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader opened the file before the erasure, so it still sees them."""
    others = [f"person{number}@people.example" for number in range(150)]
    await relay.decides([*others, ANNA])
    name, erasing = relay_id(relay.state_dir), asyncio.Event()
    indexer = Indexer(relay.settings, relay.journals, name, now=relay.clock.now)
    add = relay.journals.add

    async def added_late(*given: Any) -> None:
        await erasing.wait()
        await add(*given)

    @asynccontextmanager
    async def reopening() -> AsyncIterator[None]:
        erasing.set()
        async with indexer.reopening():
            yield

    await relay.journals.add_erasure(ANNA, relay.clock.now())
    monkeypatch.setattr(relay.journals, "add", added_late)
    _, erased = await asyncio.gather(
        indexer.look(), carry_out(relay.settings, relay.journals, name, reopening)
    )
    await indexer.look()
    assert erased == 1
    assert not await relay.journals.find(IndexQuery(recipients=(ANNA,)), 10)
    assert len(await relay.journals.find(IndexQuery(recipients=tuple(others)), 200)) == 150


async def test_an_erasure_reaches_rejected_lines_of_imports_here(relay: Relay) -> None:
    """Only a keyed hash tells whom to erase."""
    jobs, id = ImportJobs(relay.state_dir), "01M8KZR1PK784FRZGRDY695A8B"
    await relay.decides(["eva@people.example"])
    now = relay.clock.now()
    jobs.receive(id)
    jobs.accept(ImportJob(id, "contacts", "crm", now, dry_run=False, size=1))
    entries = [
        f'# line 2: x\n"{ANNA.upper()}",?\n',
        "# line 3: x\neva@people.example,?\n",
        f'# line 4: x\n{{"address":"<{ODD}>","source":7}}\n',
        "# line 5: x\n@,@@,\n",
        f"# line 6: x\n7|{ANNA}|Anna\n",
        f"# line 7: x\n7~{ANNA}~a+b\n",
    ]
    jobs.rejected(id).write_text("address,source\n" + "".join(entries))
    await relay.journals.add_erasure(ANNA, now)
    await relay.follows()
    assert ANNA in jobs.rejected(id).read_text().lower(), "an unfinished import is left alone"
    jobs.finish(id, JobEnd("complete", now))
    await relay.journals.add_erasure("nobody@people.example", now)
    await relay.follows()
    assert ANNA in jobs.rejected(id).read_text().lower()
    await relay.journals.add_erasure(ANNA, now)
    await relay.follows()
    assert jobs.rejected(id).read_text() == "address,source\n" + entries[1] + entries[3]


async def test_the_index_forgets_other_readings_of_the_same_address(relay: Relay) -> None:
    await relay.decides([ANNA, ODD])
    await relay.follows()
    assert len(await relay.journals.find(IndexQuery(recipients=(ODD,)), 10)) == 1
    rows, _ = await erase_record(relay.settings, ANNA, relay.clock.now())
    assert rows == 2
    assert not await relay.journals.find(IndexQuery(recipients=(ANNA, ODD)), 10)
    await relay.follows()
    assert len(await relay.journals.find(IndexQuery(), 10)) == 2


async def test_moving_a_store_first_carries_out_outstanding_erasures(relay: Relay) -> None:
    await relay.decides([ANNA])
    assert await relay.follows() == 0
    now = relay.clock.now()
    await relay.journals.tell("b" * 16, "other", now)
    await relay.journals.add_erasure(ANNA, now)
    behind = (f"other ({'b' * 16})",)
    assert await erase_outstanding(relay.settings, now) == (1, behind)
    assert ANNA.encode() not in relay.text()
    assert await erase_outstanding(relay.settings, now) == (0, behind)
    newest = await relay.journals.outstanding("b" * 16, 0)
    await relay.journals.carried_out("b" * 16, newest)
    assert await erase_outstanding(relay.settings, now) == (0, ())
