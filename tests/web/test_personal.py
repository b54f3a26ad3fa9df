"""The personal page behind a mailed link: view, correct, object, erase."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace as changed
from starlette.applications import Starlette

from smtpproxy.config import parse
from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Origin,
    Preference,
    Purchase,
    Source,
    Suppression,
)
from smtpproxy.store import open_confirmation_limit
from smtpproxy.store.link_keys import LinkReader, ensure_link_keys, link_ring
from smtpproxy.store.operations import Change, Rectification
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.web.confirmation import ConfirmationLinks
from smtpproxy.web.known import Known, Stored
from smtpproxy.web.look import looks
from smtpproxy.web.own_mail import OwnMail, RelayUnavailable, Reply
from smtpproxy.web.personal import PersonalPages
from smtpproxy.web.unsubscribe import Unsubscribe
from tests.kit.store import TrialStore
from tests.web.test_wishes import ID, JEANNE, T0, TWO_BRANDS

DAY = timedelta(days=1)
CONFIG = (
    TWO_BRANDS
    + """
[web]
address = "127.0.0.1:8025"
public_url = "https://u.example"
[confirmation]
sender = "hello@shop.example"
"""
)
WHOLE = Contact(
    JEANNE,
    audience=Audience.PROFESSIONAL,
    source=Source.DIRECT,
    collected_at=T0 - 90 * DAY,
    informed_at=T0 - 90 * DAY,
    optout_offered=True,
    occupations=frozenset({"finance", "art"}),
    language="en",
    purchases=(
        Purchase("shoes", T0 - 9 * DAY, brand="shop"),
        Purchase("rye flour", T0 - 9 * DAY, brand="mill"),
    ),
    acts=(
        ConsentAct(
            "offers", T0 - 9 * DAY, method="signed_form", evidence=Evidence("<form v3>"),
            brand="boots",
        ),
        ConsentAct("flour", T0 - 9 * DAY, brand="mill"),
    ),
    preferences=(Preference("offers", Frequency.MONTHLY, T0 - DAY, "shop"),),
)  # fmt: skip


@dataclass
class Site:
    folder: Path
    now: datetime = T0
    store: TrialStore = field(default_factory=TrialStore)
    sent: list[OwnMail] = field(default_factory=list)
    down: bool = False

    def __post_init__(self) -> None:
        ensure_link_keys(self.folder, T0.date())
        state = f'state_dir = "{self.folder}"\n[[listener]]'
        settings = parse(CONFIG.replace("[[listener]]", state, 1), "x.toml")
        self.limit = open_confirmation_limit(settings.store)
        tokens, pages = LinkReader(self.folder), looks(settings)

        def submit(mail: OwnMail) -> Reply:
            if self.down:
                raise RelayUnavailable("gone", certain=True)
            self.sent.append(mail)
            return Reply(250, "accepted")

        personal = PersonalPages(
            settings, lambda: self.store, submit, self.limit, pages, lambda: self.now
        )
        links = Unsubscribe(
            tokens,
            lambda: self.store,
            settings.streams,
            pages,
            now=lambda: self.now,
            clock=lambda: self.now.timestamp(),
            personal=personal,
        )
        confirmations = ConfirmationLinks(
            tokens,
            {"personal": personal},
            pages,
            trusts=lambda peer: False,
            now=lambda: self.now,
            clock=lambda: self.now.timestamp(),
        )
        app = Starlette(routes=[*links.routes, *confirmations.routes])
        transport = httpx.ASGITransport(app)
        self.client = httpx.AsyncClient(transport=transport, base_url="https://u.example")

    async def ask_for_link(self, recipient: str = JEANNE, code: int = 200) -> str:
        told = Unsubscription(recipient, "purpose:offers", ID, stream_tag("offers"))
        link = f"/u/{link_ring(self.folder).seal(told)}"
        response = await self.client.post(link, data={"do": "link"})
        assert response.status_code == code
        return response.text

    async def link(self) -> str:
        await self.ask_for_link()
        mail = message_from_bytes(self.sent[-1].message, policy=policy.default)
        (found,) = re.findall(r"https://u\.example(/c/\S+)", mail.get_content())  # type: ignore[attr-defined]
        return str(found)

    async def post(self, link: str, **form: str) -> str:
        response = await self.client.post(link, data={"confirm": "yes", **form})
        assert response.status_code == 200
        self.now += timedelta(seconds=10)
        return response.text


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path)
    await found.store.put_contacts([WHOLE])
    yield found
    await found.client.aclose()
    found.limit.close()
    await found.store.close()


def facts(page: str) -> dict[str, list[str]]:
    """The facts that the page lists, by name."""
    return {
        name: re.findall(r"<dd>(.*?)</dd>", values)
        for name, values in re.findall(r"<dt>(.*?)</dt>(.*)", page)
    }


@pytest.mark.parametrize(
    ("brand", "what"), [(None, "all advertising"), ("boots", "advertising from Boots & Co")]
)
def test_a_refusal_of_everything_is_shown_as_such(brand: str | None, what: str) -> None:
    act = ConsentAct("*", T0 - DAY, withdrawal=True, brand=brand)
    shop = looks(parse(TWO_BRANDS, "x.toml"))["shop"]
    lines = dict(Known(Stored(JEANNE, changed(WHOLE, acts=(act,)), [], []), shop, "en").lines())
    assert lines["Agreements"] == [f"{what}: withdrawn on 28 February 2026"]


async def test_the_link_is_mailed_and_shows_nothing_before_the_button(site: Site) -> None:
    told = await site.ask_for_link()
    assert "check your mailbox" in told
    (mail,) = site.sent
    assert (mail.recipient, mail.stream) == (JEANNE, "personal")
    read = message_from_bytes(mail.message, policy=policy.default)
    assert (read["To"], read["Subject"]) == (JEANNE, "Your link to your data at The Shop")
    assert "2 March 2026 at 10:00:00 UTC" in read.get_content()  # type: ignore[attr-defined]
    page = (await site.client.get(await site.link())).text
    assert "Show my data" in page
    assert JEANNE not in page
    assert "finance" not in page


def test_the_page_shows_only_data_of_its_controller() -> None:
    flour = Preference("flour", Frequency.WEEKLY, T0 - DAY, "mill")
    stored = Stored(
        JEANNE,
        changed(WHOLE, tags=frozenset({"vip"}), preferences=(*WHOLE.preferences, flour)),
        [
            Suppression("brand:mill", Origin.OBJECTION, T0 - DAY),
            Suppression("brand:boots", Origin.UNSUBSCRIBE, T0 - DAY),
            Suppression("marketing", Origin.MANUAL, T0, domain="@people.example"),
        ],
        [Rectification(T0 - DAY, "by letter", (Change("optout_offered", "false", "true"),))],
    )
    shop = looks(parse(TWO_BRANDS, "x.toml"))["shop"]
    assert dict(Known(stored, shop, "en").lines()) == {
        "Address": [JEANNE],
        "Language": ["English"],
        "You are": ["somebody reached at work"],
        "Source of the address": ["you gave it"],
        "Obtained on": ["1 December 2025"],
        "You were told of its use on": ["1 December 2025"],
        "You were offered a way to refuse": ["yes"],
        "Occupations": ["art, finance"],
        "Labels": ["vip"],
        "Purchases and other dealings": ["shoes, 20 February 2026"],
        "Agreements": ["offers (Boots & Co): agreed on 20 February 2026 (<form v3>)"],
        "How often": ["Special offers, Sales & clearance: Once a month at most"],
        "Stopped": ["advertising from Boots & Co, since 28 February 2026: you unsubscribed"],
        "Corrected": ["28 February 2026, You were offered a way to refuse: no → yes"],
    }


ORDER = Suppression("marketing", Origin.UNSUBSCRIBE, T0 - 20 * DAY)
AGREED = ConsentAct(
    "offers", T0 - 9 * DAY, method="signed_form", evidence=Evidence("form v3"), brand="shop"
)
WITHDRAWN = ConsentAct("offers", T0 - DAY, withdrawal=True)
WEEKLY = Preference("offers", Frequency.WEEKLY, T0 - 9 * DAY, "shop")
EARLIER = changed(WEEKLY, brand="default", at=T0 - 10 * DAY)


@pytest.mark.parametrize(
    ("acts", "orders", "wishes", "often"),
    [
        ((), [ORDER], (), "none"),
        ((AGREED,), [ORDER], (), "all"),  # somebody who subscribed again
        ((AGREED,), [changed(ORDER, origin=Origin.COMPLAINT)], (), "none"),
        ((AGREED, WITHDRAWN), [], (), "none"),
        ((), [changed(ORDER, scope="brand:boots")], (), "all"),
        ((), [changed(ORDER, scope="brand:renamed")], (), "none"),
        ((), [], (WEEKLY,), "weekly"),
        ((), [], (changed(WEEKLY, brand="boots"),), "all"),
        ((), [], (changed(WEEKLY, brand="default"),), "weekly"),  # from before brands
        ((), [], (EARLIER, changed(WEEKLY, frequency=Frequency.ALL)), "all"),
        ((), [], (changed(EARLIER, at=T0), changed(WEEKLY, frequency=Frequency.ALL)), "weekly"),
    ],
)
def test_wishes_are_shown_as_the_relay_obeys_them(
    acts: tuple[ConsentAct, ...],
    orders: list[Suppression],
    wishes: tuple[Preference, ...],
    often: str,
) -> None:
    contact = Contact(JEANNE, source=Source.DIRECT, brand="shop", acts=acts, preferences=wishes)
    shop = looks(parse(TWO_BRANDS, "x.toml"))["shop"]
    assert Known(Stored(JEANNE, contact, orders), shop, "en").wishes(T0)["offers"] == often


async def test_somebody_who_subscribed_again_can_ask_for_less(site: Site) -> None:
    await site.store.add_suppressions(
        [SuppressionEntry(JEANNE, "purpose:offers", Origin.UNSUBSCRIBE, T0 - 20 * DAY)]
    )
    await site.store.record_act(JEANNE, AGREED)
    page = await site.post(await site.link())
    assert 'name="often:offers" value="weekly"' in page


async def test_stored_data_is_shown_escaped(site: Site) -> None:
    page = await site.post(await site.link())
    assert facts(page)["Address"] == [JEANNE]
    assert facts(page)["Occupations"] == ["art, finance"]
    assert "&lt;form v3&gt;" in page
    french = await site.client.post(
        await site.link(), data={"confirm": "yes"}, headers={"Accept-Language": "fr"}
    )
    assert "offers (Boots &amp; Co)\u202f: consentement donné le 20 février" in french.text
    assert "<form v3>" not in page


CORRECTED = {
    "en": [
        "1 March 2026, You are: somebody reached at work → a private person",
        "1 March 2026, Language: English → français",
        "1 March 2026, Occupations: art, finance → art, carpentry",
    ],
    "fr": [
        "1er mars 2026, Vous êtes\u202f: contacté à titre professionnel → un particulier",
        "1er mars 2026, Langue\u202f: English → français",
        "1er mars 2026, Professions\u202f: art, finance → art, carpentry",
    ],
}


async def test_a_correction_is_recorded(site: Site) -> None:
    link = await site.link()
    page = await site.post(
        link, do="correct", language="fr", audience="consumer", occupations="art, carpentry"
    )
    assert "The corrections are saved." in page
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    assert (contact.language, contact.audience) == ("fr", Audience.CONSUMER)
    assert contact.occupations == {"art", "carpentry"}
    (done,) = await site.store.rectifications(JEANNE)
    assert done.reason == "by the person, on the page whose link was mailed on 2026-03-01"
    assert facts(page)["Corrected"] == CORRECTED["en"]
    read = {"data": {"confirm": "yes"}, "headers": {"Accept-Language": "fr"}}
    assert facts((await site.client.post(link, **read)).text)["Rectifié"] == CORRECTED["fr"]
    long = f"art, {'x' * 201}"
    await site.post(link, do="correct", language="xx", audience="generic", occupations=long)
    assert len(await site.store.rectifications(JEANNE)) == 1, "only options that were offered"
    same = {"language": "xx", "audience": "generic", "occupations": "art, carpentry"}
    assert "Nothing was changed." in await site.post(link, do="correct", **same)


async def test_only_the_owner_of_the_address_can_ask_for_more_mail(site: Site) -> None:
    page = await site.post(await site.link(), do="prefer", **{"often:offers": "weekly"})
    assert "Your choice is saved." in page
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    assert [(one.purpose, one.frequency) for one in contact.preferences] == [("offers", "weekly")]
    await site.post(await site.link(), do="prefer", **{"often:offers": "all", "often:news": "none"})
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    assert [one.frequency for one in contact.preferences] == ["all"]
    (held,) = await site.store.suppressions(JEANNE)
    assert (held.scope, held.origin) == ("purpose:news", "unsubscribe")


async def test_the_owner_can_end_a_limit_from_before_there_were_brands(site: Site) -> None:
    before = Preference("offers", Frequency.MONTHLY, T0 - DAY / 2)
    update = ContactUpdate(Contact(JEANNE, preferences=(before,)), given=frozenset())
    await site.store.put_contacts([update])
    page = await site.post(await site.link(), do="prefer", **{"often:offers": "all"})
    assert 'name="often:offers" value="all" checked' in page
    ahead = changed(
        update, contact=Contact(JEANNE, preferences=(changed(before, at=T0 + 90 * DAY),))
    )
    await site.store.put_contacts([ahead])
    page = await site.post(await site.link(), do="prefer", **{"often:offers": "weekly"})
    assert 'name="often:offers" value="weekly" checked' in page, "whatever date a clock gave it"


async def test_consent_to_tracking_is_withdrawn_from_every_brand_that_has_it(site: Site) -> None:
    link = await site.link()
    assert "Do not record what I open" not in await site.post(link), "there is no consent"
    assert "Nothing was changed." in await site.post(link, do="untrack")
    for brand in ("shop", "boots", "mill"):
        act = ConsentAct("tracking", T0 - DAY, method="unticked_box", brand=brand)
        await site.store.record_act(JEANNE, act)
    look = (await site.client.get(link)).text
    assert "Do not record what I open" not in look, "nothing is shown before the button"
    assert "Do not record what I open" in await site.post(link)
    page = await site.post(link, do="untrack")
    assert "Your choice is saved." in page
    assert "Do not record what I open" not in page
    assert "Nothing was changed." in await site.post(link, do="untrack")
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    left = [act.brand for act in contact.acts if act.purpose == "tracking" and act.withdrawal]
    assert sorted(map(str, left)) == ["boots", "shop"], "the mill belongs to another controller"


@pytest.mark.parametrize(
    ("acts", "shown"),
    [
        ([("shop", 1, False)], True),
        ([(None, 1, False)], True),
        ([("shop", 1, False), ("shop", 2, True)], False),
        ([("shop", 1, False), (None, 2, True)], False),
        ([("shop", 2, False), ("shop", 1, True)], True),
        ([("shop", 1, False), ("shop", 1, True)], False),
        ([("mill", 1, False)], False),
    ],
)
def test_the_page_says_who_may_see_openings(
    acts: list[tuple[str | None, int, bool]], shown: bool
) -> None:
    said = tuple(
        ConsentAct("tracking", T0 + days * DAY, withdrawal=no, brand=brand)
        for brand, days, no in acts
    )
    shop = looks(parse(TWO_BRANDS, "x.toml"))["shop"]
    assert (
        bool(Known(Stored(JEANNE, Contact(JEANNE, acts=said), ()), shop, "en").tracking()) is shown
    )


async def test_an_objection_to_profiling_is_recorded(site: Site) -> None:
    page = await site.post(await site.link(), do="object")
    assert "Your objection is on record." in page
    assert facts(page)["You objected to profiling on"] == ["1 March 2026"]
    assert "I object to profiling" not in page
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    assert (contact.language, contact.occupations) == (WHOLE.language, WHOLE.occupations)


async def test_an_erasure_needs_a_tick_and_stops_marketing(site: Site) -> None:
    link = await site.link()
    page = await site.post(link, do="erase")
    assert "Nothing was erased" in page
    assert "This covers The Shop, Boots &amp; Co and Mill Ltd.</p>" in page
    page = await site.post(link, do="erase", sure="yes")
    assert "Your profile, your agreements and your purchases are erased." in page
    assert "is kept for 5 years from each message" in page
    assert await site.store.contact(JEANNE) is None
    (held,) = await site.store.suppressions(JEANNE)
    assert (held.scope, held.origin) == ("marketing", "erasure")
    assert "Nothing is stored about you here" in await site.post(link)


async def test_a_link_is_valid_for_a_day(site: Site) -> None:
    link = await site.link()
    site.now += DAY + timedelta(seconds=1)
    for method in ("GET", "POST"):
        response = await site.client.request(method, link, data={"confirm": "yes"})
        assert response.status_code == 410
        assert JEANNE not in response.text


async def test_requests_for_links_are_limited_and_reveal_nothing(site: Site) -> None:
    pages = {await site.ask_for_link() for _ in range(5)}
    assert len(site.sent) == 3
    assert len(pages) == 1


async def test_a_relay_that_is_down_is_reported(site: Site) -> None:
    site.down = True
    assert "did not work" in await site.ask_for_link(code=503)


async def test_the_mail_is_in_the_persons_own_language(site: Site) -> None:
    await site.store.put_contacts([Contact(JEANNE, language="nl-be")])
    await site.ask_for_link()
    read = message_from_bytes(site.sent[0].message, policy=policy.default)
    assert read["Subject"] == "Uw link naar uw gegevens bij The Shop"
    who = "Verantwoordelijk voor deze berichten: Example SA, 1 rue de l'Exemple, 75001 Paris."
    assert who in read.get_content().splitlines()  # type: ignore[attr-defined]


async def test_links_that_were_not_mailed_do_not_count_towards_the_daily_limit(site: Site) -> None:
    site.down = True
    for _ in range(5):
        await site.ask_for_link(code=503)
    site.down = False
    await site.ask_for_link()
    assert len(site.sent) == 1
