"""The shape of a person: all that a verdict at RCPT depends on. One of each shape is judged.

Two times are equal here if no rule can distinguish them: rules compare times with each other, with
now, and with the beginnings of the rulebooks' periods (tests/scrub/test_shapes.py).
"""

from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime, time
from functools import lru_cache
from itertools import count

from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    RecipientFacts,
    Rulebook,
    Suppression,
)
from smtpproxy.policy.periods import Period, beginning, within
from smtpproxy.policy.rules.bases import states

_MOST = 100_000  # days remembered
_ENDS = (time.min, time.max)  # of a day: if these are alike, so is all in between
_EVIDENCE = Evidence()


class Shapes:
    """Determines the shapes of people, under some rulebooks, at one time."""

    def __init__(self, rulebooks: Iterable[Rulebook], now: datetime) -> None:
        books = list(rulebooks)
        windows = {book.permission_window for book in books} - {None}
        self._nows = [now, *(beginning(now, window) for window in windows if window)]
        periods: set[Period | None] = set()
        for book in books:
            periods |= {book.consent_period, book.customer_period}
            periods |= {book.inquiry_period, book.activity_period}
        self._periods = [(period, then) for period in periods if period for then in self._nows]
        self._since = [book.charity_since for book in books if book.charity_since]
        self._roles = frozenset().union(*(book.role_local_parts for book in books))
        self._places: dict[tuple[bool, ...], int] = {}
        self._days: dict[int, int] = {}  # the place of all times of a day

    def of(self, address: str, known: RecipientFacts, lines: Sequence[Contact]) -> Hashable | None:
        """Return the shape of a person with these `lines` in a file; None: judge them alone."""
        contact, orders = known.contact, known.suppressions
        if known.mailings or known.readings or known.null_mx is not None:
            return None
        beside = (
            tuple([_order_of(one) for one in orders]) if orders else (),
            known.snapshot_at,
            known.newest_snapshot_at,
            known.pauses,
        )
        if contact is None:
            if address.partition("@")[0] in self._roles:
                return None
            return self._order([order.since for order in orders]), beside
        if (
            contact.others
            or contact.preferences
            or contact.audience is Audience.GENERIC
            or (contact.provenance is not None and contact.provenance.chain)
            or (lines and (len(lines) > 1 or lines[0] != contact))
        ):
            return None
        acts, bought = contact.acts, contact.purchases
        moments = [
            contact.collected_at,
            contact.informed_at,
            contact.last_activity_at,
            contact.profiling_objected_at,
            *[act.at for act in acts],
        ]
        if bought:
            moments += [one.at for one in bought]
        if orders:
            moments += [order.since for order in orders]
        return (
            self._order(moments),
            contact.audience,
            contact.source,
            contact.brand,
            contact.optout_offered,
            contact.never_informed,
            contact.provenance,
            contact.occupations,
            contact.tags,
            tuple([_act(act) for act in acts]) if acts else (),
            tuple([(one.product, one.kind, one.brand, one.came_by) for one in bought])
            if bought
            else (),
            bool(lines),
            beside,
        )

    def _order(self, moments: Sequence[datetime | None]) -> Hashable:
        """Return the order of the times among themselves, and among those that rules use."""
        distinct = sorted(filter(None, set(moments)))
        ranks: dict[datetime | None, int] = dict(zip(distinct, count()))
        return (
            tuple(map(ranks.get, moments)),
            tuple([self._days.get(at.toordinal()) or self._place(at) for at in distinct]),
        )

    def _place(self, at: datetime) -> int:
        """Return a number, from 1, for all that a rule can tell about a time."""
        first, last = (self._number(datetime.combine(at, end, at.tzinfo)) for end in _ENDS)
        if first != last:
            return self._number(at)
        if len(self._days) < _MOST:
            self._days[at.toordinal()] = first
        return first

    def _number(self, at: datetime) -> int:
        told = (
            *[at > then for then in self._nows],
            *[at >= on for on in self._since],
            *[within(at, period, then) for period, then in self._periods],
        )
        return self._places.setdefault(told, len(self._places) + 1)


def _act(act: ConsentAct) -> Hashable:
    evidence = act.evidence
    return (
        act.purpose,
        act.withdrawal,
        act.method,
        act.conditional,
        act.channels,
        None if evidence == _EVIDENCE else _stated(evidence),
        act.pending,
        act.brand,
        act.came_by,
    )


@lru_cache(maxsize=1_024)
def _stated(evidence: Evidence) -> Hashable:
    return tuple([states(evidence, name) for name in Evidence.__struct_fields__])


def _order_of(one: Suppression) -> Hashable:
    return (one.scope, one.origin, one.widened, one.domain is None, one.read_as is None)
