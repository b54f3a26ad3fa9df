"""Invariant tested: people of one shape stand alike, and the same facts would free them."""

from datetime import datetime, timedelta
from random import Random

from msgspec.structs import replace

from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import Contact, RecipientFacts, Rulebook, Stream
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.scrub.fixes import freed_by
from smtpproxy.scrub.shapes import Shapes
from tests.policy.cases import NOW
from tests.policy.strategies import MOMENTS, random_case

BOOKS = [builtin(name) for name in ("fr", "uk", "us", "ca")]


def standing(
    address: str, stream: Stream, known: RecipientFacts, book: Rulebook
) -> tuple[object, ...]:
    case = RecipientCase(address, stream, known, book, NOW)
    verdict = judge_recipient(case)
    told = () if known.contact is None else (known.contact,)
    return verdict.action, verdict.reason, verdict.basis, freed_by(case, verdict, told)


def plain(known: RecipientFacts) -> RecipientFacts:
    contact = known.contact and replace(known.contact, others=(), preferences=())
    return replace(known, contact=contact, mailings=(), readings=(), null_mx=None)


class Moving:
    """Moves moments, the same one always to the same place: mostly not far."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._places: dict[datetime, datetime] = {}

    def moment(self, at: datetime | None) -> datetime | None:
        return None if at is None else self.there(at)

    def there(self, at: datetime) -> datetime:
        random = self._random
        if at not in self._places:
            near = at + timedelta(microseconds=random.choice([-1, 0, 1, 7, -(10**6), 3 * 10**9]))
            self._places[at] = random.choice([at, near, near, random.choice(MOMENTS)])
        return self._places[at]

    def contact(self, contact: Contact) -> Contact:
        return replace(
            contact,
            address="anybody@else.example",
            collected_at=self.moment(contact.collected_at),
            informed_at=self.moment(contact.informed_at),
            last_activity_at=self.moment(contact.last_activity_at),
            profiling_objected_at=self.moment(contact.profiling_objected_at),
            acts=tuple(replace(act, at=self.there(act.at)) for act in contact.acts),
            purchases=tuple(replace(one, at=self.there(one.at)) for one in contact.purchases),
        )

    def facts(self, known: RecipientFacts) -> RecipientFacts:
        return replace(
            known,
            contact=known.contact and self.contact(known.contact),
            suppressions=tuple(
                replace(one, since=self.there(one.since)) for one in known.suppressions
            ),
        )


def test_people_of_one_shape_stand_alike() -> None:
    shapes = Shapes(BOOKS, NOW)
    alike = 0
    for seed in range(6_000):
        random = Random(seed)
        address, stream, known = random_case(random)
        first = plain(known)
        second = Moving(random).facts(first)
        told = [[one.contact] if one.contact else [] for one in (first, second)]
        shape = shapes.of(address, first, told[0])
        if shape is None or shape != shapes.of("anybody@else.example", second, told[1]):
            continue
        alike += first != second
        for book in BOOKS:
            assert standing(address, stream, first, book) == standing(
                "anybody@else.example", stream, second, book
            ), seed
    assert alike > 500


def test_what_only_some_people_have_makes_no_shape() -> None:
    shapes = Shapes(BOOKS, NOW)
    assert shapes.of("contact@firm.example", RecipientFacts(), ()) is None
    assert shapes.of("anna@firm.example", RecipientFacts(), ()) is not None
    contact = Contact("anna@firm.example")
    known = RecipientFacts(contact=contact)
    assert shapes.of(contact.address, known, [contact]) is not None
    assert shapes.of(contact.address, known, [contact, contact]) is None
    assert shapes.of(contact.address, known, [Contact(contact.address, language="fr")]) is None
