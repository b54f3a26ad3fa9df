"""The first people of a file as a mapping would import them: judged, but not stored."""

from collections import Counter, abc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from itertools import islice
from pathlib import Path

from msgspec import Struct, field

from smtpproxy.cli.import_record import age_of, input_time
from smtpproxy.cli.printer import Column, Fields, Part, Styled, Table
from smtpproxy.cli.stores import read_store
from smtpproxy.clock import now
from smtpproxy.locale import REFERENCE
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    StreamClass,
)
from smtpproxy.report import fix
from smtpproxy.scrub.outlook import Outlook, StreamOutlook
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import ContactComparison
from smtpproxy.store.exchange.consent_columns import purpose_in_words
from smtpproxy.store.exchange.contact_csv import read_csv
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.exchange.lines import ImportFault, Passed, Read, Rejected
from smtpproxy.store.exchange.mapping import Mapping
from smtpproxy.store.exchange.plausible import ContactCheck
from smtpproxy.store.exchange.tables import read_table
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted, printable

ROWS = 1_000
_PEOPLE = 4  # shown
_FAULTS = 3
_COLUMNS = [Column(), Column(right=True), Column(prose=True)]


class Person(Struct, frozen=True):
    """One person, with each marketing stream's verdict."""

    line: int
    contact: Contact
    verdicts: dict[str, str]  # stream to basis or reason
    zone: tzinfo  # that of the file

    def text(self) -> str:
        known = [str(self.contact.audience), str(self.contact.source or "source not known")]
        known += [self._act(act) for act in self.contact.acts]
        known += [f"bought {one.product} on {self._day(one.at)}" for one in self.contact.purchases]
        judged = [f"{stream}: {verdict}" for stream, verdict in self.verdicts.items()]
        return f"{', '.join(known)} → {'; '.join(judged) or 'no marketing stream'}"

    def _act(self, act: ConsentAct) -> str:
        done = "refused" if act.withdrawal else "agreed to"
        return f"{done} {purpose_in_words(act.purpose)} on {self._day(act.at)}"

    def _day(self, at: datetime) -> str:
        return f"{at.astimezone(self.zone):%Y-%m-%d}"


class Sample(Struct):
    """The first rows of a file."""

    zone: tzinfo
    rows: int = 0
    people: list[Person] = []
    allowed: Counter[str] = field(default_factory=Counter)  # by stream
    refused: dict[str, Counter[str]] = {}  # reasons by stream
    rejected: list[str] = []
    faults: int = 0

    def text(self, *, with_address: bool) -> Iterator[Part]:
        yield Styled(f"How the first {counted(self.rows, 'row')} would be imported:", "bold")
        for one in self.people:
            address = f" {one.contact.address}" if with_address else ""
            yield f"  line {one.line}:{address} {printable(one.text())}"
        for fault in self.rejected:
            yield f"  {printable(fault)}"
        if self.faults > len(self.rejected):
            yield f"  and {self.faults - len(self.rejected):,} more rejected"
        if self.refused:
            yield Table(_COLUMNS, list(self._rows()))
        reasons = dict.fromkeys(reason for found in self.refused.values() for reason in found)
        if reasons:
            yield Fields([(reason, fix(reason, REFERENCE)) for reason in reasons])

    def _rows(self) -> Iterator[Sequence[str]]:
        for stream, reasons in self.refused.items():
            why = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
            style = "green" if self.allowed[stream] else "red"
            yield stream, Styled(f"{self.allowed[stream]:,} may be mailed", style), why

    def as_object(self) -> dict[str, object]:
        return {
            "sampled": self.rows,
            "rejected": self.faults,
            "streams": {
                stream: {"allowed": self.allowed[stream], "by_reason": dict(reasons)}
                for stream, reasons in self.refused.items()
            },
            "people": [{"line": one.line, "verdicts": one.verdicts} for one in self.people],
        }


def sample(settings: Settings, path: Path, mapping: Mapping) -> Sample:
    """Read the first rows, and judge the people as if they were merged into the store.

    Raises OSError.
    """
    found = Sample(mapping.notation.zone or UTC)
    check = ContactCheck(settings, now())
    with Source(path) as file:
        updates: list[Read[ContactUpdate]] = []
        try:
            contents = check.checked(
                read_csv(read_table(file, mapping), mapping, age_of(input_time(path)))
            )
            for item in islice(contents.items, ROWS):
                found.rows += 1
                if isinstance(item, Rejected):
                    found.faults += 1
                    if len(found.rejected) < _FAULTS:
                        found.rejected.append(f"line {item.number}: rejected: {item.reason}")
                    if item.refusal is not None:
                        updates.append(Read(item.number, item.refusal, b""))
                elif not isinstance(item, Passed):
                    updates.append(item)
        except ImportFault as error:
            found.rejected.append(str(error))
            found.faults += 1
    orders = check.orders([one.value for one in updates])
    read_store(settings, lambda store: _judge(settings, store, updates, orders, found))
    return found


async def _judge(
    settings: Settings,
    store: Store,
    updates: Sequence[Read[ContactUpdate]],
    orders: Sequence[SuppressionEntry],
    found: Sample,
) -> None:
    marketing = [
        one for one in settings.streams.values() if one.stream_class is StreamClass.MARKETING
    ]
    declared = {one.name for one in settings.declared_streams}
    streams = {one.name for one in marketing if one.name in declared}
    streams = streams or {one.name for one in marketing}
    moment = now()
    people: dict[str, Contact] = {}

    async def judged(some: Sequence[ContactUpdate]) -> list[StreamOutlook]:
        outlook = Outlook(settings, moment, foresees=True)
        await outlook.imported(store, some, people, orders)
        return [one for one in outlook.findings().streams if one.stream.name in streams]

    async def look(some: Sequence[ContactUpdate], after: abc.Mapping[str, Contact]) -> None:
        people.update(after)
        for one in await judged(some):
            found.allowed[one.stream.name] = one.allowed
            found.refused[one.stream.name] = Counter(one.reasons)

    await ContactComparison(store, (), moment, look)(updates)
    lines: dict[str, int] = {}
    for one in updates:
        lines.setdefault(one.value.contact.address, one.number)
    for address, line in list(lines.items())[:_PEOPLE]:
        contact = people.get(address, Contact(address))  # or they were erased, and are left out
        own = [one.value for one in updates if one.value.contact.address == address]
        verdicts = {
            one.stream.name: f"may be mailed ({next(iter(one.bases))})"
            if one.allowed
            else next(iter(one.reasons))
            for one in await judged(own)
        }
        found.people.append(Person(line, contact, verdicts, found.zone))
