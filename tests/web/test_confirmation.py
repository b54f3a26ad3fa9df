"""The page behind a confirm link: its text, when it acts, and for how long it is valid."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette

from smtpproxy.config import parse
from smtpproxy.locale import PAGE_LANGS
from smtpproxy.mail.confirmation_token import Confirmation, Kind, seal_confirmation
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Lookups,
    Origin,
    Source,
    Transaction,
)
from smtpproxy.settings import Settings
from smtpproxy.store import open_confirmation_limit
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    LinkReader,
    add_link_key,
    ensure_link_keys,
    link_ring,
)
from smtpproxy.store.records import StoreUnavailable, SuppressionEntry
from smtpproxy.web.api.description import document
from smtpproxy.web.confirmation import ConfirmationLinks
from smtpproxy.web.consent_by_mail import ConsentByMail, ConsentRequest
from smtpproxy.web.look import looks
from smtpproxy.web.own_mail import OwnMail, Reply
from smtpproxy.web.rates import PER_MINUTE
from tests.kit.relay import relay_config
from tests.kit.store import TrialStore
from tests.kit.toml import to_toml
from tests.web.serving import api_over

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
LEA = "lea@people.example"
YES = {"confirm": "yes"}
PROXY = "127.0.0.1"


def configured(folder: Path, **more: Any) -> Settings:
    offers = {"name": "offers", "class": "marketing", "purpose": "offers",
              "label": {"en": "our offers", "fr": "nos offres"}}  # fmt: skip
    given = {
        "web": {"public_url": "https://confirm.shop.example"},
        "confirmation": {"sender": "hello@shop.example"},
        "stream": [offers],
        **more,
    }
    return parse(to_toml(relay_config(folder, "127.0.0.1:25", given)), "relay.toml")


@dataclass
class Site:
    """The links, a store, and the mail that would go out."""

    settings: Settings
    now: datetime = T0
    clock: float = 0.0
    down: bool = False
    store: TrialStore = field(default_factory=TrialStore)
    mails: list[OwnMail] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.settings.server.state_dir
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "suppression.key").write_text(f"1 {'0' * 64}\n")
        (self.folder / "suppression.key").chmod(0o600)
        ensure_link_keys(self.folder, T0.date())
        self.limit = open_confirmation_limit(self.settings.store)
        self.by_mail = ConsentByMail(
            self.settings, self._writer, self._submit, self.limit, lambda: self.now
        )
        self.links = links = ConfirmationLinks(
            LinkReader(self.folder),
            {"consent": self.by_mail, "permission": self.by_mail},
            looks(self.settings),
            trusts=lambda peer: peer == PROXY,
            now=lambda: self.now,
            clock=lambda: self.clock,
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=Starlette(routes=links.routes)),
            base_url="https://confirm.shop.example",
        )

    def _writer(self) -> TrialStore:
        if self.down:
            raise StoreUnavailable("the disk is full")
        return self.store

    def _submit(self, mail: OwnMail) -> Reply:
        self.mails.append(mail)
        return Reply(250, "ok")

    async def asked(self, **more: Any) -> str:
        """The path of the link for a request made now."""
        request = ConsentRequest(LEA, "offers", "default", **more)
        assert (await self.by_mail.start(request)).state == "sent"
        return self.path(Confirmation("consent", LEA, "default", "offers", self.now,
                                      self.now + timedelta(days=7), "en"))  # fmt: skip

    def path(self, told: Confirmation) -> str:
        return f"/c/{seal_confirmation(link_ring(self.folder), told)}"

    async def acts(self) -> tuple[ConsentAct, ...]:
        contact = await self.store.contact(LEA)
        return () if contact is None else contact.acts


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(configured(tmp_path))
    yield found
    await found.client.aclose()
    found.limit.close()
    await found.store.close()


async def test_looking_at_the_page_changes_nothing(site: Site) -> None:
    path = await site.asked()
    for method in ("GET", "HEAD"):
        assert (await site.client.request(method, path)).status_code == 200
    for form in ({}, {"confirm": "no"}, {"List-Unsubscribe": "One-Click"}):
        assert (await site.client.post(path, data=form)).status_code == 200
    assert [act.pending for act in await site.acts()] == [True]


@pytest.mark.parametrize("lang", PAGE_LANGS)
async def test_the_text_agreed_to_is_kept_as_it_was_shown(site: Site, lang: str) -> None:
    path = await site.asked(lang=lang)
    assert site.mails[0].message.count(b"Content-Language: " + lang.encode()) == 1
    page = (await site.client.get(path, headers={"Accept-Language": lang})).text
    site.now += timedelta(hours=1)
    done = await site.client.post(path, data=YES, headers={"Accept-Language": lang})
    assert done.status_code == 200
    request, act = await site.acts()
    assert (request.pending, act.pending, act.at) == (True, False, site.now)
    assert act.evidence.wording is not None
    assert act.evidence.wording.replace("’", "&#39;") in page.replace("’", "&#39;")
    assert act.evidence.version is not None
    assert act.evidence.version.endswith(f" {lang}")


async def test_the_page_shows_the_labels_of_purposes(site: Site) -> None:
    path = await site.asked()
    page = await site.client.get(path, headers={"Accept-Language": "fr"})
    assert "nos offres" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert LEA not in page.text


async def test_two_concurrent_clicks_are_one_act(site: Site) -> None:
    path = await site.asked()
    answers = await asyncio.gather(*(site.client.post(path, data=YES) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await site.acts()) == 2


async def test_each_link_is_for_its_own_request(site: Site) -> None:
    first = await site.asked()
    site.now += timedelta(minutes=1)
    second = await site.asked()
    site.now += timedelta(minutes=1)
    assert "is confirmed" in (await site.client.post(second, data=YES)).text
    assert "already" in (await site.client.post(first, data=YES)).text
    never = site.path(Confirmation("consent", LEA, "default", "offers", T0 - timedelta(days=1),
                                   T0 + timedelta(days=7), "en"))  # fmt: skip
    assert (await site.client.post(never, data=YES)).status_code == 410


@pytest.mark.parametrize(
    ("after", "status"), [(timedelta(days=7), 200), (timedelta(days=7, microseconds=1), 410)]
)
async def test_a_link_expires(site: Site, after: timedelta, status: int) -> None:
    path = await site.asked()
    site.now += after
    assert (await site.client.get(path)).status_code == status
    assert (await site.client.post(path, data=YES)).status_code == status


async def test_a_permission_link_of_an_unknown_person(site: Site) -> None:
    told = Confirmation("permission", LEA, "default", "offers", T0, T0 + timedelta(days=30), "en")
    path = site.path(told)
    assert (await site.client.post(path, data=YES)).status_code == 410
    await site.store.put_contacts([Contact(LEA)])
    assert (await site.client.post(path, data=YES)).status_code == 200
    (act,) = await site.acts()
    assert act.evidence.wording is not None
    assert "may go on" in act.evidence.wording
    other = site.path(replace(told, purpose="news"))
    assert (await site.client.post(other, data=YES)).status_code == 200


@pytest.mark.parametrize(
    ("origin", "scope", "status"),
    [
        (Origin.OBJECTION, "marketing", 410),
        (Origin.COMPLAINT, "brand:shop", 410),
        (Origin.MANUAL, "all", 410),
        (Origin.UNSUBSCRIBE, "marketing", 200),
    ],
)
@pytest.mark.parametrize("kind", ["consent", "permission"])
async def test_somebody_who_objected_since_is_promised_nothing(
    site: Site, kind: Kind, origin: Origin, scope: str, status: int
) -> None:
    path = await site.asked()
    if kind == "permission":
        await site.store.put_contacts([Contact(LEA)])
        path = site.path(
            Confirmation(kind, LEA, "default", "offers", T0, T0 + timedelta(days=30), "en")
        )
    before = await site.acts()
    site.now += timedelta(hours=1)
    await site.store.add_suppressions([SuppressionEntry(LEA, scope, origin, site.now)])
    site.now += timedelta(hours=1)
    assert (await site.client.post(path, data=YES)).status_code == status
    assert (await site.acts() == before) is (status == 410)


async def test_a_link_survives_a_new_key(site: Site) -> None:
    path = await site.asked()
    add_link_key(site.folder, T0.date())
    assert (await site.client.post(path, data=YES)).status_code == 200


async def test_a_failure_is_shown_and_nothing_is_recorded(site: Site) -> None:
    path = await site.asked()
    site.down = True
    answer = await site.client.post(path, data=YES)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert "nothing is confirmed yet" in answer.text
    assert site.links.snapshot().counters["web_failures_total"] == {("confirmation",): 1}
    site.down = False
    (site.folder / LINK_KEY_FILE).unlink()
    assert (await site.client.post(path, data=YES)).status_code == 200, "the key is kept in memory"


async def test_a_link_used_too_often_is_limited(site: Site) -> None:
    path = await site.asked()
    codes = [(await site.client.post(path, data={})).status_code for _ in range(PER_MINUTE + 1)]
    assert codes == [200] * PER_MINUTE + [429]
    assert (await site.client.get(path)).status_code == 200
    site.clock += 60
    assert (await site.client.post(path, data=YES)).status_code == 200


@pytest.mark.parametrize(
    ("forwarded", "same"),
    [("192.0.2.7", True), ("192.0.2.9, 192.0.2.7", True), ("192.0.2.9", False)],
)
async def test_the_clients_address_is_kept_as_a_keyed_hash(
    site: Site, forwarded: str, same: bool
) -> None:
    path = await site.asked(evidence=Evidence(ip="192.0.2.7"))
    await site.client.post(path, data=YES, headers={"X-Forwarded-For": forwarded})
    request, act = await site.acts()
    assert request.evidence.ip is not None
    assert request.evidence.ip.startswith("hmac:")
    assert (request.evidence.ip == act.evidence.ip) is same
    assert "192.0.2" not in repr(await site.acts())


@pytest.mark.parametrize(
    ("known", "claimed", "state"),
    [
        (None, None, "sent"),
        (None, Source.WEB, "refused"),
        (Contact(LEA), None, "sent"),
        (Contact(LEA, source=Source.WEB), None, "refused"),
        (Contact(LEA, source=Source.WEB), Source.DIRECT, "sent"),  # now given by themselves
        (Contact(LEA, source=Source.DIRECT), None, "sent"),
        (Contact(LEA, tags=frozenset({"restricted"})), Source.DIRECT, "refused"),
    ],
)
async def test_a_confirmation_records_how_the_address_was_obtained(
    site: Site, known: Contact | None, claimed: Source | None, state: str
) -> None:
    await site.store.put_contacts([known] if known else [])
    asked = ConsentRequest(LEA, "offers", "default", Evidence("offers by mail"), source=claimed)
    done = await site.by_mail.start(asked)
    assert done.state == state
    before = await site.store.contact(LEA)
    assert (before and before.source) == (known and known.source), "anybody could have asked"
    if claimed is Source.DIRECT and state == "sent":
        told = Confirmation(
            "consent", LEA, "default", "offers", T0, T0 + timedelta(days=7), "en", "direct"
        )
        await site.client.post(site.path(told), data=YES)
        facts = await site.store.facts(Lookups((LEA,)))
        offers, book = site.settings.streams["offers"], site.settings.rulebooks["fr"]
        (verdict,) = judge(Transaction((offers,), (LEA,)), facts, book, site.now).recipients
        assert verdict.basis == "consent"


async def test_each_brand_asks_under_its_own_name(tmp_path: Path) -> None:
    brands = [
        {"name": "shoes", "title": "Shoes & Co", "help": "help@shoes.example", "languages": ["fr"]},
        {"name": "hats", "title": "Hats Ltd", "from_domains": ["shop.example"]},
    ]
    streams = [
        {"name": brand, "class": "marketing", "purpose": f"{brand}-news", "brand": brand}
        for brand in ("shoes", "hats")
    ]
    site = Site(configured(tmp_path, brand=brands, stream=streams))
    for brand in ("shoes", "hats"):
        asked = ConsentRequest(LEA, f"{brand}-news", brand, lang="de", source=Source.DIRECT)
        assert (await site.by_mail.start(asked)).state == "sent"
    shoes, hats = site.mails
    assert (shoes.stream, shoes.sender) == ("confirmations-shoes", "help@shoes.example")
    assert (hats.stream, hats.sender) == ("confirmations-hats", "hello@shop.example")
    assert b"From: Shoes & Co <help@shoes.example>" in shoes.message
    assert b"Content-Language: fr" in shoes.message, "it speaks no German"
    assert b"Content-Language: de" in hats.message
    assert [act.brand for act in await site.acts()] == ["shoes", "hats"]
    complaint = SuppressionEntry(LEA, "brand:hats", Origin.COMPLAINT, site.now)
    await site.store.add_suppressions([complaint])
    for brand in ("shoes", "hats"):  # a complaint about one stops the other from asking too
        asked = ConsentRequest(LEA, f"{brand}-news", brand, source=Source.DIRECT)
        assert (await site.by_mail.start(asked)).state == "refused"
    await site.client.aclose()
    site.limit.close()
    await site.store.close()


async def test_the_limits_apply_per_day(tmp_path: Path) -> None:
    limit = open_confirmation_limit(configured(tmp_path).store)
    (tmp_path / "state").mkdir(exist_ok=True)
    bounds = {"per_address": 2, "per_day": 3}
    later = T0 + timedelta(days=1) - timedelta(microseconds=1)
    ann, bob, tagged = "ann@people.example", "bob@people.example", "lea+x@people.example"
    takes = [(LEA, T0), (tagged, later), (LEA, later), (ann, later), (bob, later)]
    takes.append((LEA, T0 + timedelta(days=1)))
    taken = [await limit.take(who, at, **bounds) for who, at in takes]
    assert taken == [True, True, False, True, False, True]
    await limit.give_back("ann@people.example", later)
    assert await limit.take("bob@people.example", T0 + timedelta(days=1), **bounds)
    limit.close()


async def test_the_api_describes_the_request(site: Site) -> None:
    api = api_over(site.store, site.settings, by_mail=site.by_mail)
    described = document([operation for operation, _ in api.operations], "0")
    assert {"/v1/consents", "/v1/permission-links"} <= set(described["paths"])
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(described["components"]["schemas"])
    without = api_over(site.store, site.settings)
    assert "/v1/consents" not in {route.path for route in without.routes}


async def test_a_yes_to_a_removed_brand_does_not_count_for_the_remaining_one(
    tmp_path: Path,
) -> None:
    site = Site(configured(tmp_path, brand=[{"name": "hats", "title": "Hats Ltd"}]))
    try:
        await _stays_shut(site)
    finally:
        await site.client.aclose()
        site.limit.close()
        await site.store.close()


async def _stays_shut(site: Site) -> None:
    until = site.now + timedelta(days=7)
    for kind in ("consent", "permission"):
        told = Confirmation(kind, LEA, "shoes", "offers", site.now, until, "en", "direct")
        asked = ConsentAct("offers", site.now, method="double_opt_in", pending=True, brand="shoes")
        await site.store.record_act(LEA, asked)
        before = await site.acts()
        for answer in (
            await site.client.get(site.path(told)),
            await site.client.post(site.path(told), data=YES),
        ):
            assert answer.status_code == 410
        assert await site.acts() == before
