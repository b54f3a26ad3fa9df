"""Judges from counts whether a stream is ready to be enforced, or what stands in the way."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Literal

from msgspec import Struct

from smtpproxy.policy.model import Action, Mode, Reason, StreamClass
from smtpproxy.policy.rulebook import (
    MARKETING_MESSAGE_REASONS,
    MESSAGE_REASONS,
    TRANSACTIONAL_MESSAGE_REASONS,
)
from smtpproxy.report.counts import Counts, Row

ENOUGH = 20
"""Recipients needed to judge a stream."""

RECENT = 2
"""How many last days with mail to look at: a fixed fault no longer occurs in them."""

FAULT, TRANSACTIONAL_FAULT = 0.01, 0.001
"""The share of a stream's messages above which their faults stand in the way."""

GAP = 0.1
"""The share of a stream's recipients above which missing records stand in the way."""

UNDECIDED = 0.001
WEEK = 7


class Kind(StrEnum):
    """Who can do something about a reason."""

    PERSON = "person"  # nobody: enforcing is meant to stop such mail
    RECORD = "record"  # whoever has data that is not on record
    MESSAGE = "message"  # the developer of the application
    TIME = "time"  # nobody: it passes
    RELAY = "relay"  # the operator of the relay


_KINDS: Mapping[str, Kind] = {
    Reason.NO_RECORD: Kind.RECORD,
    Reason.SOURCE_UNDISCLOSED: Kind.RECORD,
    Reason.SOURCE_UNPROVEN: Kind.RECORD,
    Reason.BRAND_UNPROVEN: Kind.RECORD,
    Reason.CONSENT_MISSING: Kind.RECORD,
    Reason.CONSENT_UNPROVEN: Kind.RECORD,
    Reason.PRODUCT_NOT_SIMILAR: Kind.RECORD,
    Reason.SOURCE_NOT_DIRECT: Kind.RECORD,
    Reason.NOTICE_MISSING: Kind.RECORD,
    Reason.OPTOUT_NOT_OFFERED: Kind.RECORD,
    Reason.TOPIC_UNRELATED: Kind.RECORD,
    Reason.LIST_STALE: Kind.RECORD,
    Reason.RESTORE_PENDING: Kind.TIME,
    Reason.STREAM_PAUSED: Kind.TIME,
    Reason.FREQUENCY_CAP: Kind.TIME,
    Reason.CAMPAIGN_ON_TRIAL: Kind.TIME,
    Reason.TEMPORARY_FAILURE: Kind.RELAY,
    **dict.fromkeys(MESSAGE_REASONS, Kind.MESSAGE),
    **dict.fromkeys(MARKETING_MESSAGE_REASONS, Kind.MESSAGE),
    **dict.fromkeys(TRANSACTIONAL_MESSAGE_REASONS, Kind.MESSAGE),
    Reason.SOURCE_NOT_ANNOUNCED: Kind.MESSAGE,
    Reason.TRACKING_UNCONSENTED: Kind.MESSAGE,
}


def kind_of(reason: str) -> Kind:
    return _KINDS.get(reason, Kind.PERSON)


Trend = Literal["new", "rising", "steady", "falling", "gone"]


class Figure(Struct, frozen=True):
    """The figures for one reason on one stream."""

    reason: str
    kind: Kind
    recipients: int
    share: float  # of the stream's recipients, 0 to 1
    days: Mapping[str, int]
    trend: Trend
    apps: Sequence[tuple[str, int]]  # recipients, or messages if those are none; largest first
    examples: Sequence[str]
    messages: int = 0  # messages with that fault themselves, whatever their recipients
    of_messages: float = 0.0  # share of the stream's messages
    recently: float = 0.0  # share, in the last days


class Readiness(StrEnum):
    READY = "ready"
    BLOCKED = "blocked"
    ENFORCED = "enforced"
    UNSEEN = "unseen"  # no mail on it
    UNCONFIGURED = "unconfigured"


class Remark(Struct, frozen=True):
    """A text of the locale's section `report`, with its values."""

    key: str
    values: Mapping[str, str | int] = {}
    reason: str | None = None


class Judgement(Struct, frozen=True):
    verdict: Readiness
    obstacles: Sequence[Remark] = ()
    notes: Sequence[Remark] = ()


class StreamReport(Struct, frozen=True, dict=True):
    """The outcome of one stream's mail. `mode` is None if the stream is not configured."""

    name: str
    stream_class: StreamClass
    mode: Mode | None
    counts: Counts

    @cached_property
    def days(self) -> dict[str, Row]:
        """The stream's part of each day, in order."""
        parts = {day: self._own(row) for day, row in sorted(self.counts.days.items())}
        return {day: row for day, row in parts.items() if row}

    @cached_property
    def total(self) -> Row:
        total: Row = {}
        for row in self.days.values():
            for what, count in row.items():
                total[what] = total.get(what, 0) + count
        return total

    @cached_property
    def apps(self) -> dict[str, Row]:
        """The stream's part of each application's mail."""
        return {app: self._own(row) for app, row in self.counts.apps.shown().items()}

    @cached_property
    def at_fault(self) -> dict[str, Row]:
        """The stream's part of each application's messages that are at fault themselves."""
        return {app: self._own(row) for app, row in self.counts.at_fault.shown().items()}

    @property
    def recipients(self) -> int:
        return sum(self.total.values())

    @property
    def observed(self) -> bool:
        """Whether any of its mail was only observed."""
        return any(what.observed for what in self.total)

    @cached_property
    def messages(self) -> int:
        return self._messages()

    def _messages(self, reason: str | None = None, since: str = "") -> int:
        return sum(
            count
            for fault, count in self.counts.messages.items()
            if fault.stream == self.name and fault.day >= since and reason in (None, fault.reason)
        )

    @cached_property
    def bases(self) -> dict[str, int]:
        """Recipients that passed, by basis, the largest first."""
        found: dict[str, int] = {}
        for what, count in self.total.items():
            if what.action is Action.ALLOW:
                found[what.word] = found.get(what.word, 0) + count
        passed = [(basis, count) for basis, count in found.items() if count]
        return dict(sorted(passed, key=lambda pair: -pair[1]))

    @cached_property
    def figures(self) -> list[Figure]:
        """The reasons why mail was or would be refused, the most frequent first."""
        words = {what.word for what in self.total if what.action is not Action.ALLOW}
        words |= {
            fault.reason
            for fault in self.counts.messages
            if fault.stream == self.name
            and fault.reason not in (Reason.NONE, Reason.RECIPIENTS_REFUSED)  # no fault of its own
        }
        made = [self._figure(word) for word in words]
        return sorted(
            made, key=lambda figure: (-max(figure.recipients, figure.messages), figure.reason)
        )

    def _figure(self, word: str) -> Figure:
        days = {day: _of(row, word) for day, row in self.days.items()}
        recent = self._recent_since
        kind = kind_of(word)
        count, messages = sum(days.values()), self._messages(word)
        if messages:
            recently = self._messages(word, recent) / max(self._messages(None, recent), 1)
        else:
            lately = sum(sum(row.values()) for day, row in self.days.items() if day >= recent)
            recently = sum(n for day, n in days.items() if day >= recent) / max(lately, 1)
        by_app = self.apps if count else self.at_fault  # whose recipients are refused for another
        apps = {app: _of(row, word) for app, row in by_app.items()}
        return Figure(
            word,
            kind,
            count,
            count / max(self.recipients, 1),
            days,
            self._trend(days),
            sorted(((app, n) for app, n in apps.items() if n), key=lambda pair: -pair[1]),
            self.counts.examples.get((self.name, word), ()),
            messages,
            messages / max(self.messages, 1),
            recently,
        )

    @cached_property
    def _recent_since(self) -> str:
        """The first of the last days; empty, for all days, if they have too little mail."""
        last = list(self.days)[-RECENT:]
        seen = sum(sum(self.days[day].values()) for day in last)
        return last[0] if last and seen >= ENOUGH else ""

    def _trend(self, days: Mapping[str, int]) -> Trend:
        """Return how its share of mail changes from the first half of the days to the second."""
        names = list(days)
        half = len(names) // 2
        early, late = (
            (sum(days[day] for day in part), sum(sum(self.days[day].values()) for day in part))
            for part in (names[:half], names[half:])
        )
        if not early[1]:
            return "steady"
        before, after = early[0] / early[1], late[0] / max(late[1], 1)
        if not before or not after:
            return "new" if after else "gone" if before else "steady"
        return (
            "rising" if after > before * 1.25 else "falling" if after < before * 0.8 else "steady"
        )

    def _own(self, row: Row) -> Row:
        return {what: count for what, count in row.items() if what.stream == self.name}

    @cached_property
    def judgement(self) -> Judgement:
        if not self.recipients:
            return Judgement(Readiness.UNSEEN)
        if self.mode is None:
            return Judgement(Readiness.UNCONFIGURED)
        if self.mode is not Mode.OBSERVE:
            return Judgement(Readiness.ENFORCED)
        obstacles = tuple(self._obstacles())
        return Judgement(
            Readiness.BLOCKED if obstacles else Readiness.READY, obstacles, tuple(self._notes())
        )

    def _obstacles(self) -> Iterator[Remark]:
        if self.recipients < ENOUGH:
            yield Remark("few", {"count": self.recipients, "enough": ENOUGH})
        for figure in self.figures:
            if self._is_fault(figure) and figure.recently >= self._bound:
                yield _remark("fault", figure, figure.messages or figure.recipients)
            elif figure.kind is Kind.RELAY and figure.recently >= UNDECIDED:
                yield _remark("undecided", figure, figure.recipients)
        gaps = [figure for figure in self.figures if figure.kind is Kind.RECORD]
        if sum(figure.recently for figure in gaps) >= GAP:
            for figure in gaps:
                if figure.recently >= GAP / 10:
                    yield _remark("gap", figure, figure.recipients)

    @property
    def _bound(self) -> float:
        """People wait for transactional mail."""
        return TRANSACTIONAL_FAULT if self.stream_class is StreamClass.TRANSACTIONAL else FAULT

    def _is_fault(self, figure: Figure) -> bool:
        """A message refused for its recipients' sake alone is in order itself."""
        return figure.kind is Kind.MESSAGE and figure.reason != Reason.RECIPIENTS_REFUSED

    def _notes(self) -> Iterator[Remark]:
        if len(self.days) < WEEK:
            yield Remark("short", {"count": len(self.days)})
        for figure in self.figures:
            if self._is_fault(figure) and figure.recently < self._bound:
                key = "mended" if figure.of_messages >= self._bound else "rare"
                yield _remark(key, figure, figure.messages or figure.recipients)
        if alongside := self.counts.alongside.get(self.name):
            yield Remark("alongside", {"count": alongside})


def _remark(key: str, figure: Figure, count: int) -> Remark:
    return Remark(key, {"count": count, "reason": figure.reason}, figure.reason)


def _of(row: Row, word: str) -> int:
    """How many were refused or deferred for that reason."""
    return sum(
        count
        for what, count in row.items()
        if what.word == word and what.action is not Action.ALLOW
    )


def stream_reports(
    counts: Counts, modes: Mapping[str, Mode], classes: Mapping[str, StreamClass]
) -> list[StreamReport]:
    """A report for each configured stream, and for each that had mail, in the order of its size."""
    known = {**counts.classes, **classes}
    made = [StreamReport(name, known[name], modes.get(name), counts) for name in known]
    return sorted(made, key=lambda one: (-one.recipients, one.name))
