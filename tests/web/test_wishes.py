"""The choices behind an unsubscribe link: less mail or none, per brand, and undo."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from smtpproxy.config import parse
from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Origin,
    Preference,
    Source,
)
from smtpproxy.store.link_keys import LinkReader, ensure_link_keys, link_ring
from smtpproxy.store.operations import Correction
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.web.look import looks
from smtpproxy.web.unsubscribe import Unsubscribe, render
from tests.kit.store import TrialStore

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ID = "01JKB3Q00020CT1R0RZ1H6E7A8"
JEANNE = "jeanne@people.example"
AGREED = ConsentAct("offers", T0 - timedelta(days=9), method="signed_form", evidence=Evidence("x"))
SUBSCRIBER = Contact(JEANNE, acts=(AGREED,), language="de-at")
TWO_BRANDS = """
[server]
hostname = "relay.example.com"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
[upstream]
address = "127.0.0.1:10025"
[[brand]]
name = "shop"
title = "The Shop"
legal_name = "Example SA"
address = "1 rue de l'Exemple, 75001 Paris"
help = "help@shop.example"
[[brand]]
name = "boots"
title = "Boots & Co"
legal_name = "Example SA"
address = "1 rue de l'Exemple, 75001 Paris"
languages = ["fr", "nl"]
[[brand]]
name = "mill"
legal_name = "Mill Ltd"
address = "2 Mill Lane"
[[stream]]
name = "offers"
brand = "shop"
class = "marketing"
purpose = "offers"
label = {en = "Special offers", fr = "Offres spéciales"}
[[stream]]
name = "sales"
brand = "shop"
class = "marketing"
purpose = "offers"
label = {en = "Sales & clearance"}
[[stream]]
name = "news"
brand = "shop"
class = "marketing"
purpose = "news"
[[stream]]
name = "receipts"
brand = "shop"
class = "transactional"
purpose = "news"
[[stream]]
name = "winter"
brand = "boots"
class = "marketing"
purpose = "winter"
[[stream]]
name = "flour"
brand = "mill"
class = "marketing"
purpose = "flour"
"""
ONE_BRAND = (
    TWO_BRANDS.partition("[[brand]]")[0]
    + "[[stream]]"
    + (TWO_BRANDS.split("[[stream]]")[1].replace('brand = "shop"\n', ""))
)


@dataclass
class Site:
    folder: Path
    config: str = TWO_BRANDS
    now: datetime = T0
    store: TrialStore = field(default_factory=TrialStore)

    def __post_init__(self) -> None:
        ensure_link_keys(self.folder, T0.date())
        settings = parse(self.config, "x.toml")
        links = Unsubscribe(
            LinkReader(self.folder),
            lambda: self.store,
            settings.streams,
            looks(settings),
            now=lambda: self.now,
            clock=lambda: self.now.timestamp(),
        )
        transport = httpx.ASGITransport(Starlette(routes=links.routes))
        self.client = httpx.AsyncClient(transport=transport, base_url="https://u.example")

    def link(
        self, scope: str = "purpose:offers", stream: str = "offers", recipient: str = JEANNE
    ) -> str:
        told = Unsubscription(recipient, scope, ID, stream_tag(stream))
        return f"/u/{link_ring(self.folder).seal(told)}"

    async def press(self, link: str, **more: str) -> str:
        """Press the button of the page."""
        form = {"List-Unsubscribe": "One-Click", "from": "page", **more}
        response = await self.client.post(link, data=form)
        assert response.status_code == 200
        return response.text

    async def held(self) -> set[str]:
        return {one.scope for one in await self.store.suppressions(JEANNE)}

    async def undo(self, link: str, page: str, after: timedelta) -> str:
        self.now += after
        (token,) = re.findall(r'name="undo" value="([^"]+)"', page)
        return (await self.client.post(link, data={"do": "undo", "undo": token})).text

    async def wishes(self) -> dict[str, str]:
        contact = await self.store.contact(JEANNE)
        assert contact is not None
        return {f"{one.brand}/{one.purpose}": str(one.frequency) for one in contact.preferences}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path)
    yield found
    await found.client.aclose()
    await found.store.close()


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("more", "scopes", "said"),
    [
        ({}, {"purpose:offers"}, "no more messages of this kind: <strong>Special offers</strong>"),
        ({"all": "brand"}, {"brand:shop"}, "no more advertising from The Shop."),
        (
            {"all": "controller"},
            {"brand:shop", "brand:boots"},
            "no more advertising from The Shop and Boots &amp; Co.",
        ),
    ],
)
async def test_one_press_stops_a_purpose_a_brand_or_all_brands_of_the_controller(
    site: Site, more: dict[str, str], scopes: set[str], said: str
) -> None:
    assert said in await site.press(site.link(), **more)
    assert await site.held() == scopes


async def test_all_three_buttons_are_on_the_first_page(site: Site) -> None:
    page = (await site.client.get(site.link())).text
    buttons = re.findall(r"<button>(.*?)</button>", page)
    assert buttons[:3] == [
        "No more “Special offers”",
        "No more advertising from The Shop",
        "No more advertising from The Shop and Boots &amp; Co",
    ]
    told = "Stopping “Special offers” stops Sales &amp; clearance as well."
    assert told in page, "same purpose"
    assert "write to help@shop.example." in page
    assert 'value="link"' not in page, "no mail can be sent here"
    assert "This stops Sales &amp; clearance as well." in await site.press(site.link())


async def test_a_controller_with_one_brand_gets_no_third_button(site: Site) -> None:
    link = site.link("purpose:flour", "flour")
    page = (await site.client.get(link)).text
    assert re.findall(r"<button>(.*?)</button>", page)[:2] == [
        "No more “flour”",
        "No more advertising from Mill Ltd",
    ]
    await site.press(link, all="controller")
    assert await site.held() == {"purpose:flour"}, "a form that was not offered stops nothing more"


async def test_a_brands_link_names_it_and_offers_the_other_brands(site: Site) -> None:
    """Such links are made with `unsubscribe_scope = "brand"`."""
    link = site.link("brand:shop")
    page = (await site.client.get(link)).text
    assert "no more advertising from The Shop." in page
    assert re.findall(r"<button>(.*?)</button>", page)[:2] == [
        "Unsubscribe",
        "No more advertising from The Shop and Boots &amp; Co",
    ]
    page = await site.press(link)
    assert await site.held() == {"brand:shop"}
    assert "no more advertising from The Shop." in page
    page = await site.press(link, all="controller")
    assert await site.held() == {"brand:shop", "brand:boots"}
    assert "no more advertising from The Shop and Boots &amp; Co." in page
    assert "No more advertising from" not in page, "nothing more to stop"


async def test_a_link_for_all_marketing_names_every_brand_and_has_one_button(site: Site) -> None:
    for page in ((await site.client.get(site.link("marketing"))).text,
                 await site.press(site.link("marketing"))):  # fmt: skip
        assert "no more advertising from The Shop, Boots &amp; Co and Mill Ltd." in page
        assert "No more advertising from" not in page
    assert await site.held() == {"marketing"}


async def test_the_link_of_an_only_brand_names_it(site: Site) -> None:
    page = (await site.client.get(site.link("brand:mill", "flour"))).text
    assert "no more advertising from Mill Ltd." in page
    assert "No more advertising from" not in page


async def test_without_brands_a_link_stops_all_marketing(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE_BRAND)
    await site.press(site.link(), all="brand")
    assert await site.held() == {"marketing"}
    await site.store.close()


async def test_no_page_promises_more_than_its_scope_stops(site: Site) -> None:
    kept = "Messages about your orders and your account are not stopped."
    assert kept in await site.press(site.link())
    # a transactional stream with this purpose stops as well
    assert kept not in await site.press(site.link("purpose:news", "news"))
    every = (await site.client.get(site.link("marketing"))).text
    assert "no more advertising from The Shop, Boots &amp; Co and Mill Ltd." in every


def test_the_page_says_what_a_purpose_stops_at_other_brands() -> None:
    also = """
[[stream]]
name = "sacks"
brand = "mill"
class = "marketing"
purpose = "offers"
[[stream]]
name = "invoices"
brand = "mill"
class = "transactional"
purpose = "offers"
"""
    look = looks(parse(TWO_BRANDS + also, "x.toml"))["shop"]
    page = render(look, "en", "ask", "purpose:offers", "offers", "this", "")
    assert "stops Sales &amp; clearance and sacks as well" in page
    assert "are not stopped" not in page, "invoices are named"
    page = render(look, "en", "ask", "brand:shop", "offers", "brand", "")
    assert "sacks" not in page
    assert "are not stopped" in page


async def test_a_press_can_be_undone_within_the_hour(site: Site) -> None:
    link = site.link()
    page = await site.press(link, all="controller")
    assert "It is undone" in await site.undo(link, page, 59 * MINUTE)
    assert await site.held() == set()
    lifted = await site.store.lifted_suppressions(JEANNE)
    assert {one.reason for one in lifted} == {f"taken back on the page of id={ID}"}


async def test_a_press_cannot_be_undone_after_the_hour(site: Site) -> None:
    page = await site.press(site.link())
    assert "no longer be undone" in await site.undo(site.link(), page, 61 * MINUTE)
    assert await site.held() == {"purpose:offers"}


async def test_undo_keeps_earlier_and_later_suppressions(site: Site) -> None:
    entry = SuppressionEntry(JEANNE, "purpose:offers", Origin.UNSUBSCRIBE, T0 - timedelta(days=9))
    objection = SuppressionEntry(JEANNE, "brand:shop", Origin.OBJECTION, T0)
    await site.store.add_suppressions([entry, objection])
    page = await site.press(site.link())
    assert "no longer be undone" in await site.undo(site.link(), page, MINUTE)
    assert await site.held() == {"purpose:offers", "brand:shop"}

    page = await site.press(site.link("purpose:news", "news"))
    site.now += MINUTE
    await site.client.post(site.link("purpose:news"), data={"List-Unsubscribe": "One-Click"})
    link = site.link("purpose:news", "news")
    assert "no longer be undone" in await site.undo(link, page, MINUTE)
    assert "purpose:news" in await site.held(), "it was asked for again since"


async def test_a_button_pressed_twice_can_be_undone(site: Site) -> None:
    await site.press(site.link())
    site.now += timedelta(seconds=2)
    page = await site.press(site.link())
    await site.undo(site.link(), page, MINUTE)
    assert await site.held() == set()


async def test_a_link_follows_a_corrected_address(site: Site) -> None:
    moved = "jeanne.b@people.example"
    await site.store.put_contacts([Contact(JEANNE, source=Source.DIRECT, brand="shop")])
    await site.store.rectify(JEANNE, Correction(moved), at=T0, reason="she wrote")
    link, more = site.link(), {"do": "prefer", "often:offers": "weekly"}

    async def held(address: str) -> set[str]:
        return {one.scope for one in await site.store.suppressions(address)}

    site.now += MINUTE
    one_click = {"List-Unsubscribe": "One-Click"}
    assert (await site.client.post(site.link("brand:mill"), data=one_click)).status_code == 200
    assert await held(moved) == {"brand:mill"} == await held(JEANNE)
    page = await site.press(link)
    assert await held(moved) == {"brand:mill", "purpose:offers"} == await held(JEANNE)
    await site.undo(link, page, MINUTE)
    assert await held(moved) == {"brand:mill"} == await held(JEANNE)
    entry = SuppressionEntry(moved, "purpose:offers", Origin.UNSUBSCRIBE, T0)
    await site.store.add_suppressions([entry])
    await site.undo(link, await site.press(link), MINUTE)
    assert await held(moved) == {"brand:mill", "purpose:offers"}  # as it was before the press

    page = (await site.client.post(link, data=more)).text
    contact = await site.store.contact(moved)
    assert contact is not None
    assert [str(one.frequency) for one in contact.preferences] == ["weekly"]
    await site.undo(link, page, MINUTE)
    contact = await site.store.contact(moved)
    assert contact is not None
    assert [str(one.frequency) for one in contact.preferences] == ["all"]
    assert await site.store.contact(JEANNE) is None


async def test_a_suppression_at_the_new_address_alone_can_be_undone(site: Site) -> None:
    moved = "jeanne.b@people.example"
    await site.store.put_contacts([Contact(JEANNE, source=Source.DIRECT, brand="shop")])
    await site.store.rectify(JEANNE, Correction(moved), at=T0, reason="she wrote")
    await site.press(site.link())
    site.now += timedelta(days=2)
    await site.store.remove_suppression(moved, at=site.now, reason="the person asked")
    page = await site.undo(site.link(), await site.press(site.link()), MINUTE)
    assert [one.scope for one in await site.store.suppressions(JEANNE)] == ["purpose:offers"]
    assert not await site.store.suppressions(moved)
    assert "It is undone" in page


async def test_only_the_page_that_was_pressed_can_undo(site: Site) -> None:
    """Neither another link nor somebody the message was forwarded to can."""
    one_click = await site.client.post(site.link(), data={"List-Unsubscribe": "One-Click"})
    assert 'name="undo"' not in one_click.text
    site.now += MINUTE
    again = await site.press(site.link())
    await site.undo(site.link(), again, MINUTE)
    assert await site.held() == {"purpose:offers"}

    page = await site.press(site.link("purpose:news", "news"))
    other = site.link("purpose:news", "news", recipient="paul@people.example")
    assert "no longer be undone" in await site.undo(other, page, MINUTE)
    forged = await site.client.post(site.link(), data={"do": "undo", "undo": "A" * 60})
    assert "no longer be undone" in forged.text
    assert await site.held() == {"purpose:offers", "purpose:news"}


async def prefer(site: Site, **often: str) -> str:
    form = {"do": "prefer", **{f"often:{purpose}": each for purpose, each in often.items()}}
    response = await site.client.post(site.link(), data=form)
    assert response.status_code == 200
    return response.text


async def test_a_frequency_is_set_for_each_purpose_of_the_brand(site: Site) -> None:
    await site.store.put_contacts([SUBSCRIBER])
    page = (await site.client.get(site.link())).text
    assert re.findall(r"<legend>(.*?)</legend>", page) == [
        "Special offers, Sales &amp; clearance",
        "news",
    ]
    saved = await prefer(site, offers="weekly", news="none", winter="none", flour="none")
    assert "Once a week at most" in saved
    assert await site.wishes() == {"shop/offers": "weekly"}
    assert await site.held() == {"purpose:news"}, "nothing of other brands is offered"
    await site.undo(site.link(), saved, MINUTE)
    assert (await site.wishes(), await site.held()) == ({"shop/offers": "all"}, set())


async def test_purposes_may_differ_only_in_case(tmp_path: Path) -> None:
    other = '\n[[stream]]\nname = "more"\nbrand = "shop"\nclass = "marketing"\npurpose = "Offers"\n'
    site = Site(tmp_path, TWO_BRANDS + other)
    form = {"do": "prefer", "often:Offers": "none", "often:offers": "keep", "often:news": "keep"}
    assert (await site.client.post(site.link(), data=form)).status_code == 200
    assert await site.held() == {"purpose:Offers"}
    await site.client.aclose()
    await site.store.close()


async def test_a_wish_about_many_purposes_can_be_undone(tmp_path: Path) -> None:
    """Their names may have up to 63 characters."""
    many = [f"purpose-{number:02}-{'x' * 50}" for number in range(30)]
    streams = "".join(
        f'[[stream]]\nname = "s{place}"\nclass = "marketing"\npurpose = "{name}"\n'
        for place, name in enumerate(many)
    )
    site = Site(tmp_path, ONE_BRAND + streams)
    await site.store.put_contacts([SUBSCRIBER])
    saved = await prefer(
        site, **{name: "none" if place % 2 else "monthly" for place, name in enumerate(many)}
    )
    assert len(await site.held()) == 15
    assert "It is undone" in await site.undo(site.link(), saved, MINUTE)
    assert await site.held() == set()
    await site.store.close()


async def test_a_link_cannot_raise_the_frequency(site: Site) -> None:
    monthly = Preference("offers", Frequency.MONTHLY, T0 - timedelta(days=1), "shop")
    await site.store.put_contacts([Contact(JEANNE, acts=(AGREED,), preferences=(monthly,))])
    await prefer(site, offers="weekly")
    assert await site.wishes() == {"shop/offers": "monthly"}
    await prefer(site, offers="all")
    assert await site.wishes() == {"shop/offers": "monthly"}


async def test_a_limit_dated_in_the_future_can_be_made_stricter(site: Site) -> None:
    ahead = Preference("offers", Frequency.WEEKLY, T0 + timedelta(days=90), "shop")
    await site.store.put_contacts([Contact(JEANNE, acts=(AGREED,), preferences=(ahead,))])
    saved = await prefer(site, offers="monthly")
    assert await site.wishes() == {"shop/offers": "monthly"}
    await site.undo(site.link(), saved, MINUTE)
    assert await site.wishes() == {"shop/offers": "weekly"}


async def test_a_limit_from_before_there_were_brands_can_only_be_made_stricter(
    site: Site,
) -> None:
    weekly = Preference("offers", Frequency.WEEKLY, T0 - timedelta(days=1))
    await site.store.put_contacts([Contact(JEANNE, acts=(AGREED,), preferences=(weekly,))])
    await prefer(site, offers="all")
    await prefer(site, offers="weekly")
    assert await site.wishes() == {"default/offers": "weekly"}
    saved = await prefer(site, offers="monthly")
    assert await site.wishes() == {"default/offers": "weekly", "shop/offers": "monthly"}
    await site.undo(site.link(), saved, MINUTE)
    assert await site.wishes() == {"default/offers": "weekly", "shop/offers": "weekly"}


TRACKED = TWO_BRANDS.replace(
    'purpose = "news"\n', 'purpose = "news"\ntracking_pixels = "strip"\n', 1
)
FOLLOWED = replace(AGREED, purpose="tracking", brand="shop")


async def test_consent_to_tracking_can_be_withdrawn_on_the_page(tmp_path: Path) -> None:
    site = Site(tmp_path, TRACKED)
    for_boots = replace(FOLLOWED, brand="boots")
    await site.store.put_contacts([Contact(JEANNE, acts=(AGREED, FOLLOWED, for_boots))])
    assert 'value="untrack"' not in (await site.client.get(site.link(stream="winter"))).text
    assert 'value="untrack"' in (await site.client.get(site.link())).text
    assert 'value="untrack"' in await site.press(site.link(stream="news"))
    for _ in range(2):
        response = await site.client.post(site.link(), data={"do": "untrack"})
        assert "This applies from the next message on." in response.text
        site.now += MINUTE
    contact = await site.store.contact(JEANNE)
    assert contact is not None
    said = [(act.purpose, act.brand, act.at) for act in contact.acts if act.withdrawal]
    assert said == [("tracking", "shop", T0)], "once, for the brand"
    await site.client.post(site.link(recipient="other@people.example"), data={"do": "untrack"})
    assert await site.store.contact("other@people.example") is None
    await site.client.aclose()
    await site.store.close()


async def test_the_page_omits_tracking_where_nobody_is_asked_for_it(site: Site) -> None:
    assert 'value="untrack"' not in (await site.client.get(site.link())).text


async def test_a_wish_of_an_unknown_person_creates_no_record(site: Site) -> None:
    stranger = await prefer(site, offers="weekly", news="keep")
    assert await site.held() == {"purpose:offers"}
    assert await site.store.contact(JEANNE) is None, "a record could change what is allowed"
    await site.store.put_contacts([SUBSCRIBER])
    known = await prefer(site, offers="weekly", news="keep")
    mask = re.compile(r'name="undo" value="[^"]+"')
    assert mask.sub("", stranger) == mask.sub("", known), "it must not reveal who is known"


@pytest.mark.parametrize(
    ("stream", "accepted", "lang"),
    [
        ("offers", "fr-CA, de;q=0.5", "fr"),
        ("offers", "ja", "de"),  # the contact's language
        ("winter", "ja", "fr"),  # the brand has French and Dutch
        ("winter", "de, nl;q=0.5", "nl"),
        ("winter", "en", "fr"),
    ],
)
async def test_the_browsers_language_comes_first_then_the_contacts_then_english(
    site: Site, stream: str, accepted: str, lang: str
) -> None:
    await site.store.put_contacts([SUBSCRIBER])
    link = site.link("purpose:offers", stream)
    page = (await site.client.get(link, headers={"Accept-Language": accepted})).text
    assert f'<html lang="{lang}">' in page
    other = site.link("purpose:offers", "offers", recipient="nobody@people.example")
    page = (await site.client.get(other, headers={"Accept-Language": "ja"})).text
    assert '<html lang="en">' in page
    page = (await site.client.get(site.link(), headers={"Accept-Language": ""})).text
    assert '<html lang="de">' in page


async def test_a_label_is_in_the_readers_language_or_english(site: Site) -> None:
    for accepted, label in (("fr", "Offres spéciales"), ("nl", "Special offers")):
        page = (await site.client.get(site.link(), headers={"Accept-Language": accepted})).text
        assert label in page


async def test_a_removed_stream_belongs_to_no_brand(site: Site) -> None:
    page = (await site.client.get(site.link(stream="gone"))).text
    assert re.findall(r"<button>(.*?)</button>", page) == ["No more “offers”"]
    assert "<footer>" not in page


async def test_with_a_single_brand_every_link_is_its_own(tmp_path: Path) -> None:
    one = '[[brand]]\nname = "shop"\ntitle = "The Shop"\nlegal_name = "S"\naddress = "Paris"\n'
    site = Site(tmp_path, ONE_BRAND + one)
    page = (await site.client.get(site.link(stream="gone"))).text
    assert "No more advertising from The Shop" in page
    await site.press(site.link(stream="gone"), all="brand")
    assert await site.held() == {"brand:shop"}
    await site.store.close()
