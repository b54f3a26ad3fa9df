"""Every surface that says whether somebody may be mailed agrees with the others.

They are the relay at every intake, explain, the audit log, scrub, the summary of an import and
the page about a person's own data.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.core.dry_run import Question, dry_run
from smtpproxy.core.evaluation import replay
from smtpproxy.core.explanation import recall
from smtpproxy.core.services import StreamChoice
from smtpproxy.events import Decided
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import Action, Stream, Transaction, Verdict
from smtpproxy.relay.content import Content, Spool
from smtpproxy.scrub.outlook import Findings, Outlook
from smtpproxy.scrub.verdicts import ScrubRequest, judge_addresses
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import Record
from smtpproxy.store.exchange.compare import ContactComparison
from smtpproxy.store.exchange.lines import Read
from smtpproxy.store.records import ContactUpdate
from smtpproxy.store.sqlite import SqliteStore, open_sqlite
from smtpproxy.web.known import Known, Stored
from smtpproxy.web.look import looks
from smtpproxy.wire.content import stuffed
from tests.core.surfaces import ADDRESSES, APART, IMPRINT, INTAKES, configuration, fill, update
from tests.core.test_replay import on_record
from tests.kit.messages import marketing
from tests.kit.soak import times
from tests.kit.store import put_tables
from tests.policy.cases import NOW, said
from tests.store.imports_contract import begun

Verdicts = Mapping[tuple[str, str], Verdict]  # by stream and address
ABOUT_THE_MESSAGE = {"source_not_announced"}  # not known at RCPT


class Surfaces:
    """A configuration and its store."""

    def __init__(self, random: Random, settings: Settings, store: SqliteStore) -> None:
        self.random = random
        self.settings = settings
        self.store = store

    async def verdicts(self) -> Verdicts:
        """What the rules say, with one read for each address and stream."""
        found = {}
        for stream in self.settings.streams.values():
            book = self.settings.rulebooks[stream.rulebook]
            for address in ADDRESSES:
                asked = Transaction((stream,), (address,))
                facts = await self.store.facts(needs(asked, book))
                (found[stream.name, address],) = judge(asked, facts, book, NOW).recipients
        return found

    async def check(self) -> None:
        verdicts = await self.verdicts()
        for stream in self.settings.streams.values():
            await self.scrub(stream, verdicts)
        for declared in self.settings.declared_streams:
            for intake in INTAKES:
                await self.relay(self.settings.streams[declared.name], intake, verdicts)
        await self.pages(verdicts)
        await self.imports(verdicts)

    async def scrub(self, stream: Stream, verdicts: Verdicts) -> None:
        request = ScrubRequest(stream, self.settings.rulebooks[stream.rulebook], NOW)
        others = [f"nobody{number}@else.example" for number in range(50)]
        for names in (ADDRESSES, [*ADDRESSES, *others]):  # a long list is read differently
            lines = await judge_addresses(self.store, request, names)
            for address, line in zip(ADDRESSES, lines, strict=False):
                assert line.verdict == verdicts[stream.name, address], (stream, address)

    async def relay(self, stream: Stream, intake: Any, verdicts: Verdicts) -> None:
        people = self.random.sample(ADDRESSES, 1 if intake == "smtp" else 5)
        sender = f"news@{min(stream.from_domains, default='shop.example')}"
        content = Content(Spool(Path(), threshold=1 << 30))
        content.append(stuffed(marketing(sender=sender, body=f"{IMPRINT}\r\n")))
        question = Question(
            StreamChoice.of((stream,), stream), intake, intake, sender, tuple(people), NOW
        )
        answers = await dry_run(self.settings, question, content, self.store, None)
        told = {}
        for decided in answers.decided:
            told.update({one.canonical: one.verdict for one in decided.recipients})
            self.record(decided)
        assert told.keys() == set(people)
        for address, verdict in told.items():
            expected = verdicts[stream.name, address]
            same = said(verdict) == said(expected)
            assert same or verdict.reason in ABOUT_THE_MESSAGE, (intake, stream, address, expected)

    def record(self, decided: Decided) -> None:
        """Check that a decision can be replayed and explained from its record."""
        books = self.settings.rulebooks
        written = on_record(replace(decided, id="0" * 26))
        assert replay(written, books[decided.decision.rulebook]).changes == ()
        for one in recall([Record(written)], books).recipients:
            last = next(step for step in reversed(one.trace) if step.outcome != "passed")
            verdict = one.verdict
            assert (last.outcome, last.reason) == (verdict.action, verdict.reason)
            assert last.basis == verdict.basis

    async def pages(self, verdicts: Verdicts) -> None:
        for brand, look in looks(self.settings).items():
            for address in ADDRESSES:
                if "%" in address or "@" in address.rpartition("@")[0]:
                    continue  # the page ignores other readings of an address
                contact = await self.store.contact(address)
                stored = Stored(address, contact, await self.store.suppressions(address))
                for purpose, often in Known(stored, look, "en").wishes(NOW).items():
                    streams = [stream.name for stream, _ in look.marketing]
                    streams = [
                        name for name in streams if self.settings.streams[name].purpose == purpose
                    ]
                    found = [verdicts[name, address] for name in streams]
                    stopped = [one.rule in ("suppression", "withdrawn") for one in found]
                    assert (often == "none") is all(stopped), (brand, address, purpose)
                    limited = any(one.reason == "preference_frequency" for one in found)
                    assert not (limited and often == "all"), (brand, address, purpose)

    async def imports(self, verdicts: Verdicts) -> None:
        profiles = await self.store.profiles(ADDRESSES)
        contacts = {address: contact for address, (contact, _) in profiles.items()}
        outlook = Outlook(self.settings, NOW)
        await outlook.add(self.store, dict.fromkeys(ADDRESSES, ()))
        _same(outlook.findings(), verdicts, ADDRESSES)
        outlook = Outlook(self.settings, NOW, fixes=True)
        updates = [ContactUpdate(contact) for contact in contacts.values()]
        await outlook.imported(self.store, updates, contacts)
        _same(outlook.findings(), verdicts, list(contacts))
        await self.dry_import([update(self.random, address) for address in APART])

    async def dry_import(self, updates: list[ContactUpdate]) -> None:
        """Check that a dry run predicts the import, and both the relay."""
        streams = self.settings.streams.values()
        judged = [(stream, self.settings.rulebooks[stream.rulebook]) for stream in streams]
        tried = Outlook(self.settings, NOW, fixes=True, foresees=True)
        comparison = ContactComparison(
            self.store, judged, NOW, lambda items, after: tried.imported(self.store, items, after)
        )
        await comparison([Read(1, one, b"") for one in updates])
        job = await begun(self.store)
        result = await self.store.put_contacts(updates, job.next_batch())
        done = Outlook(self.settings, NOW, fixes=True)
        await done.imported(self.store, updates, result.contacts)
        assert tried.findings().streams == done.findings().streams
        _same(done.findings(), await self.verdicts(), APART)


def _same(found: Findings, verdicts: Verdicts, people: list[str]) -> None:
    for one in found.streams:
        expected = Counter(_word(verdicts[one.stream.name, address]) for address in people)
        assert Counter(one.bases) + Counter(one.reasons) == expected, one.stream.name


def _word(verdict: Verdict) -> str:
    return str(verdict.basis if verdict.action is Action.ALLOW else verdict.reason)


async def check(seed: int, root: Path) -> None:
    random = Random(seed)
    settings = configuration(random, root)
    path = root / "state" / "smtpproxy.db"
    put_tables(path)
    store = open_sqlite(path, path.parent, 5.0, read_only=False)
    try:
        await fill(random, settings, store)
        await Surfaces(random, settings, store).check()
    finally:
        await store.close()


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_all_say_the_same(part: int) -> None:
    for seed in range(part, times(24, 1_600), 4):
        with TemporaryDirectory() as folder:
            try:
                asyncio.run(check(seed, Path(folder)))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
