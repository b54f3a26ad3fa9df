"""A refusal outweighs every consent on record before it, whatever that one's date: a clock may
have been ahead when it was recorded, or be behind now."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Lookups,
    Origin,
    Preference,
    Source,
    Stream,
    StreamClass,
)
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.store.operations import Correction
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database
from tests.store.imports_contract import ANNA, begun

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
AHEAD = NOW + 100 * DAY
AGREED = ConsentAct("offers", AHEAD, method="unticked_box", evidence=Evidence("form v3"))
OFFERS = Stream("offers", StreamClass.MARKETING, purpose="offers")
SUBSCRIBER = Contact(ANNA, source=Source.DIRECT, collected_at=NOW - DAY, acts=(AGREED,))


@pytest.fixture
def store(any_database: Database) -> Store:
    return any_database.open()


async def reason(store: Store, address: str = ANNA, at: datetime = AHEAD + DAY) -> str:
    """The reason given on the stream offers, by default after the date of the consent."""
    known = (await store.facts(Lookups((address,))))[address]
    return judge_recipient(RecipientCase(address, OFFERS, known, builtin("fr"), at)).reason


def unsubscribe(scope: str, since: datetime, address: str = ANNA) -> SuppressionEntry:
    return SuppressionEntry(address, scope, Origin.UNSUBSCRIBE, since)


async def tell(store: Store, act: ConsentAct) -> None:
    """Import a single act."""
    update = ContactUpdate(Contact(ANNA, acts=(act,)), frozenset())
    await store.put_contacts([update], (await begun(store)).next_batch())


@pytest.mark.parametrize("scope", ["purpose:offers", "marketing", "all"])
@pytest.mark.parametrize("path", ["one", "import", "tagged"])
async def test_a_suppression_outweighs_a_consent_dated_ahead(
    store: Store, scope: str, path: str
) -> None:
    await store.put_contacts([SUBSCRIBER])
    assert await reason(store) == "none"
    address = "anna+news@people.example" if path == "tagged" else ANNA
    entries = [unsubscribe(scope, NOW, address)]
    if path == "import":
        importing = await begun(store, "suppressions")
        await store.add_suppressions(entries, importing.next_batch())
    else:
        await store.suppress(entries)
    assert await reason(store) == "suppressed_unsubscribe"
    assert await reason(store, at=NOW) == "suppressed_unsubscribe"
    assert (await store.add_suppressions(entries)).unchanged == 1
    await store.record_act(ANNA, replace(AGREED, at=AHEAD + timedelta(hours=1)))
    assert await reason(store) == "none"


@pytest.mark.parametrize("path", ["one", "import"])
@pytest.mark.parametrize("purpose", ["offers", "*"])
async def test_a_withdrawal_outweighs_a_consent_dated_ahead(
    store: Store, path: str, purpose: str
) -> None:
    await store.put_contacts([SUBSCRIBER])
    withdrawn = ConsentAct(purpose, NOW, withdrawal=True)
    if path == "import":
        await tell(store, withdrawn)
    else:
        await store.record_act(ANNA, withdrawn)
    assert await reason(store) == "consent_withdrawn"
    assert not await store.record_act(ANNA, withdrawn)
    await store.record_act(ANNA, replace(AGREED, at=AHEAD + timedelta(hours=1)))
    assert await reason(store) == "none"


async def test_importing_an_old_refusal_again_changes_nothing(store: Store) -> None:
    """A nightly import of everybody who ever unsubscribed must not undo a later consent."""
    old = unsubscribe("marketing", NOW - DAY)
    withdrawn = ConsentAct("offers", NOW - DAY, withdrawal=True)
    await store.put_contacts([Contact(ANNA, acts=(withdrawn,))])
    await store.suppress([old])
    await store.put_contacts([SUBSCRIBER])
    for _ in range(2):
        importing = await begun(store, "suppressions")
        await store.add_suppressions([old], importing.next_batch())
        await tell(store, withdrawn)
        assert await reason(store) == "none"


async def test_correct_dates_are_not_changed(store: Store) -> None:
    agreed = replace(AGREED, at=NOW - DAY)
    await store.put_contacts([replace(SUBSCRIBER, acts=(agreed,))])
    await store.suppress([unsubscribe("marketing", NOW - 2 * DAY)])
    assert await reason(store, at=NOW) == "none"
    assert [one.since for one in await store.suppressions(ANNA)] == [NOW - 2 * DAY]


async def test_a_wish_for_less_mail_outweighs_one_dated_ahead(store: Store) -> None:
    every = Preference("offers", Frequency.ALL, AHEAD)
    await store.put_contacts([replace(SUBSCRIBER, preferences=(every,))])
    wish = replace(every, frequency=Frequency.MONTHLY, at=NOW)
    await store.put_contacts([ContactUpdate(Contact(ANNA, preferences=(wish,)), frozenset())])
    contact = await store.contact(ANNA)
    assert contact is not None
    assert [one.frequency for one in contact.preferences] == [Frequency.MONTHLY]


async def test_a_refusal_follows_a_corrected_address(store: Store) -> None:
    """A refusal at the former address outweighs a consent dated ahead at the other."""
    other = "anna.b@people.example"
    await store.put_contacts([replace(SUBSCRIBER, address=other), Contact(ANNA)])
    await store.record_act(ANNA, ConsentAct("offers", NOW, withdrawal=True))
    await store.rectify(ANNA, Correction(new_address=other), at=NOW, reason="she moved")
    assert await reason(store, other) == "consent_withdrawn"


async def test_a_newer_profile_replaces_one_dated_ahead(store: Store) -> None:
    bought = Collection("shop", Source.PURCHASED, as_of=AHEAD)
    told = replace(SUBSCRIBER, others=(bought,))
    await store.put_contacts([ContactUpdate(told, as_of=AHEAD)])
    newer = Contact(ANNA, source=Source.DIRECT, tags=frozenset({"restricted"}))
    worse = replace(bought, as_of=NOW, never_informed=True)
    given = frozenset({"tags", "source"})
    await store.put_contacts([ContactUpdate(replace(newer, others=(worse,)), given, as_of=NOW)])
    assert await reason(store) == "contact_restricted"
    contact = await store.contact(ANNA)
    assert contact is not None
    assert [way.never_informed for way in contact.others] == [True]
