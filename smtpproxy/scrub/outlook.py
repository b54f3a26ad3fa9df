"""Who of the people of an import may be mailed, on each stream, why the others may not, and which
facts would let them through: judged by the decision core, as at RCPT."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.mail.address import AddressError, canonical, readings, whole_domain
from smtpproxy.policy.decide import judge_recipient, needs
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    NO_FACTS,
    Action,
    Contact,
    Facts,
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
from smtpproxy.scrub.verdicts import commonest_first
from smtpproxy.settings import Settings
from smtpproxy.store.keys import is_key_text
from smtpproxy.store.protocols import ContactUpdate, FactReader, Store, SuppressionEntry

Standing = tuple[str, str, tuple[str, ...]]
"""One person on one stream: verdict, basis or reason, and the facts that would free them."""

_ALLOW = Action.ALLOW
_READ = 4_000  # people, in one read of the store
_MOST_SHAPES = 20_000  # that are remembered


@dataclass(frozen=True, slots=True)
class StreamOutlook:
    """What becomes of mail to these people on one stream."""

    stream: Stream
    bases: Mapping[str, int]
    reasons: Mapping[str, int]
    wanting: Mapping[tuple[str, ...], int]  # exactly these facts

    @property
    def allowed(self) -> int:
        return sum(self.bases.values())

    @property
    def frees(self) -> list[tuple[tuple[str, ...], int]]:
        """Return sets of facts and how many people each would free, the most first.

        Supplied together, they free those too who lack only some of them.
        """
        told = [
            (facts, sum(n for other, n in self.wanting.items() if set(other) <= set(facts)))
            for facts in self.wanting
        ]
        return sorted(told, key=lambda one: (-one[1], one[0]))

    @property
    def is_marketing(self) -> bool:
        return self.stream.stream_class is StreamClass.MARKETING and not self.stream.permission


@dataclass(frozen=True, slots=True)
class Findings:
    """What is said at the end of an import."""

    people: int
    streams: Sequence[StreamOutlook]
    at: datetime
    nameless: int = 0  # entries under a key text, or for a whole domain: they name no person
    apart: int = 0  # lines too far behind another of the same person to be seen together
    missed: int = 0  # lines that the store did not answer about

    @property
    def shown(self) -> list[StreamOutlook]:
        """The streams worth a word: not the one that nobody configured and nobody may use."""
        shown = [one for one in self.streams if one.stream.name != DEFAULT_STREAM.name]
        return [one for one in self.streams if one in shown or one.allowed or not shown]

    @property
    def nobody(self) -> bool:
        """Whether there are people, and none of them may be mailed on a marketing stream."""
        marketing = [one for one in self.streams if one.is_marketing]
        return bool(self.people and marketing) and not any(one.allowed for one in marketing)


class Outlook:
    """Judges everybody once more with each batch that is about them: the last judgement counts.

    It remembers 16 to 64 octets of a person, never an address. With `fixes` it tells what an import
    could supply. `foresees`: the store does not say yet what it is told. Who has a contact that it
    `hides` is judged as if there was none.
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
        self, store: FactReader, updates: Sequence[ContactUpdate], after: Mapping[str, Contact]
    ) -> None:
        """Take in contacts, as they are `after` the updates. Raises StoreUnavailable."""
        told: dict[str, list[Contact]] = {}
        for update in updates:
            told.setdefault(update.contact.address, []).append(update.contact)
        for some in _parts(list(told)):
            facts = await self._facts(store, some, after)
            for address in some:
                self._put(address, _known(facts, address, after), told[address])

    async def suppressed(
        self,
        store: Store,
        entries: Sequence[SuppressionEntry],
        after: Mapping[str, Contact],
    ) -> None:
        """Take in who is suppressed; `after` says nothing of them. Raises StoreUnavailable."""
        told: dict[str, list[Suppression]] = {}
        for entry in entries:
            address = person(entry.address)
            if address is None:
                self.nameless += 1
                continue
            orders = told.setdefault(address, [])
            if self._foresees:
                orders.append(Suppression(entry.scope, entry.origin, entry.since))
        await self.add(store, told)

    async def add(self, store: Store, people: Mapping[str, Sequence[Suppression]]) -> None:
        """Take in people, each with what suppresses them and is not stored. Raises
        StoreUnavailable."""
        for some in _parts(list(people)):
            contacts = {name: one for name, (one, _) in (await store.profiles(some)).items()}
            facts = await self._facts(store, some, contacts)
            for address in some:
                known = _known(facts, address, contacts)
                if orders := people[address]:
                    known = replace(known, suppressions=(*known.suppressions, *orders))
                self._put(address, known, ())

    async def left(self, store: FactReader, contacts: Mapping[str, Contact | None]) -> None:
        """Take in people as they would be with these contacts, or none. Raises
        StoreUnavailable."""
        after = {address: one for address, one in contacts.items() if one is not None}
        for some in _parts(list(contacts)):
            facts = await self._facts(store, some, after)
            for address in some:
                self._put(address, _known(facts, address, after), ())

    async def _facts(
        self, store: FactReader, addresses: Sequence[str], after: Mapping[str, Contact]
    ) -> Facts:
        """Read what is known beside contacts, and all where that says more."""
        facts = await store.facts(
            replace(self._lookups, addresses=tuple(addresses), contacts=False)
        )
        whole = [
            address
            for address in addresses
            if readings(address) or ((known := after.get(address)) and known.preferences)
        ]
        if not whole:
            return facts
        return {
            **facts,
            **await store.facts(replace(self._lookups, addresses=tuple(whole), mailings=True)),
        }

    def _put(self, address: str, known: RecipientFacts, told: Sequence[Contact]) -> None:
        if self._hides and known.contact is not None and self._hides(known.contact):
            known = replace(known, contact=None)
        shape = self._shapes.of(address, known, told)
        number = None if shape is None else self._judged.get(shape)
        if number is None:
            number = self._outcome(address, known, told)
            if shape is not None and len(self._judged) < _MOST_SHAPES:
                self._judged[shape] = number
        before = self._last.put(address, number)
        if before is not None:
            self._counts[before] -= 1
            self._apart += self._foresees
        self._counts[number] += 1

    def _outcome(self, address: str, known: RecipientFacts, told: Sequence[Contact]) -> int:
        outcome = self.standings(address, known, told)
        number = self._outcomes.setdefault(outcome, len(self._counts))
        if number == len(self._counts):
            self._counts.append(0)
        return number

    def standings(
        self, address: str, known: RecipientFacts, told: Sequence[Contact] = ()
    ) -> tuple[Standing, ...]:
        """Return how a person stands on each stream."""
        found: list[Standing] = []
        for stream, rulebook in self._streams:
            case = RecipientCase(address, stream, known, rulebook, self._now)
            verdict = judge_recipient(case)
            if verdict.action is _ALLOW:
                found.append(("allow", str(verdict.basis), ()))
                continue
            facts = freed_by(case, verdict, told) if self._fixes else ()
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
            found = _Counted()
            for outcome, people in counted:
                found.add(outcome[place], people)
            streams.append(
                StreamOutlook(
                    stream,
                    commonest_first(found.bases),
                    commonest_first(found.reasons),
                    found.wanting,
                )
            )
        return Findings(
            sum(self._counts), streams, self._now, self.nameless, self._apart, self.missed
        )


@dataclass(slots=True)
class _Counted:
    bases: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wanting: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, standing: Standing, people: int) -> None:
        action, word, facts = standing
        (self.bases if action == "allow" else self.reasons)[word] += people
        if facts:
            self.wanting[facts] += people


def _known(facts: Facts, address: str, contacts: Mapping[str, Contact]) -> RecipientFacts:
    known, contact = facts.get(address, NO_FACTS), contacts.get(address)
    return known if contact is known.contact else replace(known, contact=contact)


def _parts(addresses: Sequence[str]) -> Iterable[Sequence[str]]:
    return (addresses[at : at + _READ] for at in range(0, len(addresses), _READ))


def person(address: str) -> str | None:
    """Return a canonical address; None for what names no single person."""
    if is_key_text(address):
        return None
    try:
        return None if whole_domain(address) else canonical(address)
    except AddressError:
        return None
