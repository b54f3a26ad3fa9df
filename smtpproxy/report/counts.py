"""Counts of an audit log: recipients by outcome. Counts can be added."""

from collections.abc import Mapping
from heapq import nlargest
from typing import Literal, NamedTuple

from msgspec import Struct, field

from smtpproxy.policy.model import Action, StreamClass

OTHERS = ""
"""The row for everything without a row of its own."""

PEOPLE = 10
"""A domain with fewer recipients has no row of its own, as it could identify a person."""

_APPS = 1_000
_SENDERS = 5_000
_DOMAINS = 20_000
_EXAMPLES = 3


class RecipientOutcome(NamedTuple):
    """The outcome for a recipient: `word` is the basis if it passed, otherwise the reason."""

    stream: str
    observed: bool
    action: Action
    word: str


Row = dict[RecipientOutcome, int]


class Breakdown(Struct):
    """Rows by name. Beyond twice `most`, the smallest are merged into `OTHERS`."""

    most: int
    guarded: Literal["", "recipients", "people"] = ""  # what a row needs `PEOPLE` of
    rows: dict[str, Row] = {}
    people: dict[str, set[int] | None] = {}
    """Checksums of the people seen, up to `PEOPLE`; then None."""

    def row(self, name: str) -> Row:
        row = self.rows.get(name)
        if row is None:
            if len(self.rows) >= 2 * self.most:
                self._merge_smallest()
            row = self.rows[name] = {}
        return row

    def seen(self, name: str, person: int) -> None:
        people = self.people.get(name, ())
        if people is not None and person not in people:
            found = self.people.setdefault(name, set())
            assert found is not None
            found.add(person)
            if len(found) >= PEOPLE:
                self.people[name] = None

    def merge(self, other: "Breakdown") -> None:
        for name, row in other.rows.items():
            add(self.row(name), row)
        for name, people in other.people.items():
            if people is None:
                self.people[name] = None
            else:
                for person in people:
                    self.seen(name, person)

    def shown(self) -> dict[str, Row]:
        """Return the rows that may be shown, the largest first, and `OTHERS` last."""
        rows = dict(self.rows)
        others: Row = rows.pop(OTHERS, {})
        for name, row in self.rows.items():
            if name != OTHERS and self._is_small(name, row):
                add(others, rows.pop(name))
        ordered = sorted(rows.items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
        return {**dict(ordered), **({OTHERS: others} if others else {})}

    def _is_small(self, name: str, row: Row) -> bool:
        """Return whether a row may be about one person."""
        if self.guarded == "people":
            return self.people.get(name, ()) is not None
        return self.guarded == "recipients" and sum(row.values()) < PEOPLE

    def _merge_smallest(self) -> None:
        others = self.rows.pop(OTHERS, {})
        kept = set(nlargest(self.most, self.rows, key=lambda name: sum(self.rows[name].values())))
        for name in list(self.rows):
            if name not in kept:
                add(others, self.rows[name])
                self.people.pop(name, None)
                del self.rows[name]
        self.rows[OTHERS] = others


def add(row: Row, other: Mapping[RecipientOutcome, int]) -> None:
    for what, count in other.items():
        row[what] = row.get(what, 0) + count


class Fault(NamedTuple):
    """The verdict on a message itself; `reason` is `none` if it was accepted."""

    day: str
    stream: str
    observed: bool
    reason: str


class Counts(Struct):
    """Counts of an audit log, or a piece of it. `days` are UTC dates such as 2026-03-01."""

    days: dict[str, Row] = {}
    apps: Breakdown = field(default_factory=lambda: Breakdown(_APPS))
    at_fault: Breakdown = field(default_factory=lambda: Breakdown(_APPS))
    """By application: messages that are at fault themselves, whatever their recipients."""
    senders: Breakdown = field(default_factory=lambda: Breakdown(_SENDERS, "recipients"))
    domains: Breakdown = field(default_factory=lambda: Breakdown(_DOMAINS, "people"))
    messages: dict[Fault, int] = {}
    alongside: dict[str, int] = {}
    """By stream: permitted recipients of observed messages that also had refused ones."""
    examples: dict[tuple[str, str], list[str]] = {}
    """The newest ids by stream and reason."""
    classes: dict[str, StreamClass] = {}
    decisions: int = 0
    unreadable: int = 0

    def merge(self, other: "Counts") -> None:
        for day, row in other.days.items():
            add(self.days.setdefault(day, {}), row)
        self.apps.merge(other.apps)
        self.at_fault.merge(other.at_fault)
        self.senders.merge(other.senders)
        self.domains.merge(other.domains)
        for fault, count in other.messages.items():
            self.messages[fault] = self.messages.get(fault, 0) + count
        for stream, count in other.alongside.items():
            self.alongside[stream] = self.alongside.get(stream, 0) + count
        for key, ids in other.examples.items():
            ours = self.examples.get(key, [])
            self.examples[key] = sorted(set(ours + ids), reverse=True)[:_EXAMPLES]
        self.classes.update(other.classes)
        self.decisions += other.decisions
        self.unreadable += other.unreadable

    def example(self, stream: str, reason: str, id: str) -> None:
        ids = self.examples.setdefault((stream, reason), [])
        if len(ids) < _EXAMPLES or id > ids[-1]:
            if id not in ids:
                ids.append(id)
                ids.sort(reverse=True)
            del ids[_EXAMPLES:]
