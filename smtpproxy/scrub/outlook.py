"""Which people of an import may be mailed on each stream, why the others may not, and which facts
would let them through: judged by the decision core, as at RCPT."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.address import AddressError, canonical, whole_domain
from smtpproxy.policy.decide import judge_recipient, needs
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    NO_FACTS,
    Action,
    Contact,
    RecipientFacts,
    Rulebook,
    Stream,
    StreamClass,
    Suppression,
    Transaction,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.scrub.fixes import freed_by
from smtpproxy.scrub.marked import MarkedAddresses
from smtpproxy.scrub.shapes import Shapes
from smtpproxy.scrub.verdicts import most_frequent_first
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import facts_beside
from smtpproxy.store.keys import is_key_text
from smtpproxy.store.merge import oldest_first
from smtpproxy.store.records import ContactUpdate, FactReader, SuppressionEntry
from smtpproxy.store.sql.store import Store

Standing = tuple[str, str, tuple[str, ...]]
"""One person on one stream: verdict, basis or reason, and the facts that would free them."""

_ALLOW = Action.ALLOW
_READ = 4_000  # people in one read of the store
_MOST_SHAPES = 20_000  # remembered


class StreamOutlook(Struct, frozen=True):
    """The verdicts on these people on one stream, counted."""

    stream: Stream
    bases: Mapping[str, int]
    reasons: Mapping[str, int]
    missing: Mapping[tuple[str, ...], int]  # exactly these facts

    @property
    def allowed(self) -> int:
        return sum(self.bases.values())

    @property
    def frees(self) -> list[tuple[tuple[str, ...], int]]:
        """Return sets of facts with how many people each would free, the most first.

        A set also frees people who lack only some of its facts.
        """
        freed = [
            (facts, sum(n for other, n in self.missing.items() if set(other) <= set(facts)))
            for facts in self.missing
        ]
        return sorted(freed, key=lambda pair: (-pair[1], pair[0]))

    @property
    def is_marketing(self) -> bool:
        return self.stream.stream_class is StreamClass.MARKETING and not self.stream.permission


class Findings(Struct, frozen=True):
    """The outlook at the end of an import."""

    people: int
    streams: Sequence[StreamOutlook]
    at: datetime
    nameless: int = 0  # entries by key text or for a whole domain, which name no person
    apart: int = 0  # lines too far after another one of the same person to be judged together
    missed: int = 0  # lines not judged, as the store did not answer

    @property
    def shown(self) -> list[StreamOutlook]:
        """The streams worth showing: the built-in default only if it allows anybody or is alone."""
        shown = [one for one in self.streams if one.stream.name != DEFAULT_STREAM.name]
        return [one for one in self.streams if one in shown or one.allowed or not shown]

    @property
    def nobody(self) -> bool:
        """Whether there are people, and none may be mailed on any marketing stream."""
        marketing = [one for one in self.streams if one.is_marketing]
        return bool(self.people and marketing) and not any(one.allowed for one in marketing)


class Outlook:
    """Judges people again with each batch about them; their last verdicts count.

    Keeps 16 to 64 octets per person, never an address. `fixes`: also find which facts an import
    could supply. `foresees`: the batches are not in the store (a dry run). A contact that it
    `hides` is judged as if it did not exist.
    """

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        *,
        fixes: bool = False,
        foresees: bool = False,
        hides: Callable[[Contact], bool] | None = None,
    ) -> None:
        self._streams = [
            (one, settings.rulebooks[one.rulebook]) for one in settings.streams.values()
        ]
        question = Transaction(tuple(stream for stream, _ in self._streams))
        book = self._streams[0][1] if self._streams else Rulebook("")
        self._lookups = needs(question, book)
        self._now = now
        self._fixes = fixes
        self._last = MarkedAddresses("L")
        self._outcomes: dict[tuple[Standing, ...], int] = {}
        self._counts: list[int] = []
        self._shapes = Shapes([book for _, book in self._streams], now)
        self._judged: dict[Hashable, int] = {}  # by shape
        self._foresees = foresees
        self._hides = hides
        self.nameless = self.missed = 0
        self._apart = 0

    async def imported(
        self,
        store: FactReader,
        updates: Sequence[ContactUpdate],
        after: Mapping[str, Contact],
        entries: Sequence[SuppressionEntry] = (),
    ) -> None:
        """Judge contacts as they are `after` the updates, of which `entries` follow.

        Raises StoreUnavailable.
        """
        lines: dict[str, list[Contact]] = {}
        for update in updates:
            lines.setdefault(update.contact.address, []).append(update.contact)
        orders_of: dict[str, list[Suppression]] = {}
        for entry in entries if self._foresees else ():
            orders_of.setdefault(entry.address, []).append(_order(entry))
        await self._judge(store, list(lines), after, orders_of, lines)

    async def suppressed(
        self,
        store: Store,
        entries: Sequence[SuppressionEntry],
        after: Mapping[str, Contact],
    ) -> None:
        """Judge the people of suppressions; `after` is not used. Raises StoreUnavailable."""
        orders_of: dict[str, list[Suppression]] = {}
        for entry in entries:
            address = person(entry.address)
            if address is None:
                self.nameless += 1
                continue
            orders = orders_of.setdefault(address, [])
            if self._foresees:
                orders.append(_order(entry))
        await self.add(store, orders_of)

    async def add(self, store: Store, people: Mapping[str, Sequence[Suppression]]) -> None:
        """Judge people, each with suppressions that are not stored. Raises StoreUnavailable."""
        for some in _parts(list(people)):
            contacts = {name: one for name, (one, _) in (await store.profiles(some)).items()}
            await self._judge(store, some, contacts, people)

    async def left(self, store: FactReader, contacts: Mapping[str, Contact | None]) -> None:
        """Judge people as if they had these contacts, or none. Raises StoreUnavailable."""
        after = {address: one for address, one in contacts.items() if one is not None}
        await self._judge(store, list(contacts), after)

    async def _judge(
        self,
        store: FactReader,
        addresses: Sequence[str],
        contacts: Mapping[str, Contact],
        orders_of: Mapping[str, Sequence[Suppression]] = {},
        lines: Mapping[str, Sequence[Contact]] = {},
    ) -> None:
        """Judge people as if they had these contacts, or none, and these orders too."""
        for some in _parts(addresses):
            limited = {one for one in some if one in contacts and contacts[one].preferences}
            facts = await facts_beside(
                store, replace(self._lookups, addresses=tuple(some)), limited
            )
            for address in some:
                known = replace(facts.get(address, NO_FACTS), contact=contacts.get(address))
                known = _with_orders(known, orders_of.get(address, ()))
                self._put(address, known, lines.get(address, ()))

    def _put(self, address: str, known: RecipientFacts, lines: Sequence[Contact]) -> None:
        if self._hides and known.contact is not None and self._hides(known.contact):
            known = replace(known, contact=None)
        shape = self._shapes.of(address, known, lines)
        number = None if shape is None else self._judged.get(shape)
        if number is None:
            outcome = self.standings(address, known, lines)
            number = self._outcomes.setdefault(outcome, len(self._counts))
            if number == len(self._counts):
                self._counts.append(0)
            if shape is not None and len(self._judged) < _MOST_SHAPES:
                self._judged[shape] = number
        before = self._last.put(address, number)
        if before is not None:
            self._counts[before] -= 1
            self._apart += self._foresees
        self._counts[number] += 1

    def standings(
        self, address: str, known: RecipientFacts, lines: Sequence[Contact] = ()
    ) -> tuple[Standing, ...]:
        """Return a person's verdict on each stream."""
        found: list[Standing] = []
        for stream, rulebook in self._streams:
            case = RecipientCase(address, stream, known, rulebook, self._now)
            verdict = judge_recipient(case)
            if verdict.action is _ALLOW:
                found.append(("allow", str(verdict.basis), ()))
                continue
            facts = freed_by(case, verdict, lines) if self._fixes else ()
            found.append((str(verdict.action), str(verdict.reason), facts))
        return tuple(found)

    def findings(self) -> Findings:
        streams = []
        counted = [
            (outcome, self._counts[number])
            for outcome, number in self._outcomes.items()
            if self._counts[number]
        ]
        for place, (stream, _) in enumerate(self._streams):
            bases, reasons, missing = Counter[str](), Counter[str](), Counter[tuple[str, ...]]()
            for outcome, people in counted:
                action, word, facts = outcome[place]
                (bases if action == "allow" else reasons)[word] += people
                if facts:
                    missing[facts] += people
            ordered = most_frequent_first(bases), most_frequent_first(reasons)
            streams.append(StreamOutlook(stream, *ordered, missing))
        return Findings(
            sum(self._counts), streams, self._now, self.nameless, self._apart, self.missed
        )


def _order(entry: SuppressionEntry) -> Suppression:
    return Suppression(entry.scope, entry.origin, entry.since)


def _with_orders(known: RecipientFacts, orders: Sequence[Suppression]) -> RecipientFacts:
    """Add orders as the store does: one of the same scope and origin moves to the later time."""
    if not orders:
        return known
    held = list(known.suppressions)
    for order in orders:
        same = [one for one in held if one == replace(order, since=one.since, note=one.note)]
        if all(one.since < order.since for one in same):
            held = [one for one in held if one not in same] + [order]
    return replace(known, suppressions=oldest_first(held))


def _parts(addresses: Sequence[str]) -> Iterable[Sequence[str]]:
    return (addresses[at : at + _READ] for at in range(0, len(addresses), _READ))


def person(address: str) -> str | None:
    """Return a canonical address; None for anything that names no single person."""
    if is_key_text(address):
        return None
    try:
        return None if whole_domain(address) else canonical(address)
    except AddressError:
        return None
