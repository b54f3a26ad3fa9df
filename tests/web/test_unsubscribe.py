"""Unsubscribe links: GET changes nothing, one POST unsubscribes."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from smtpproxy.config import parse
from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.policy.model import Suppression
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    LinkReader,
    add_link_key,
    ensure_link_keys,
    link_ring,
)
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.web.look import looks
from smtpproxy.web.unsubscribe import Unsubscribe
from tests.kit.store import TrialStore

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ID = "01JKB3Q00020CT1R0RZ1H6E7A8"
JEANNE = "jeanne@people.example"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
OFFERS = ("unsubscribe", "offers")
CONFIG = """
[server]
hostname = "relay.example.com"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
[upstream]
address = "127.0.0.1:10025"
[[stream]]
name = "offers"
class = "marketing"
purpose = "offers"
[[stream]]
name = "news"
class = "marketing"
purpose = "news"
"""


@dataclass
class Site:
    """The links over a store; the test sets `now` and `clock`."""

    folder: Path
    now: datetime = T0
    clock: float = 0.0
    down: bool = False
    store: TrialStore = field(default_factory=TrialStore)

    def __post_init__(self) -> None:
        ensure_link_keys(self.folder, T0.date())
        settings = parse(CONFIG, "x.toml")
        self.links = Unsubscribe(
            LinkReader(self.folder),
            self._writer,
            settings.streams,
            looks(settings),
            now=lambda: self.now,
            clock=lambda: self.clock,
        )
        app = Starlette(routes=self.links.routes)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="https://unsubscribe.shop.example"
        )

    def _writer(self) -> TrialStore:
        if self.down:
            raise StoreUnavailable("the disk is full")
        return self.store

    def link(
        self, recipient: str = JEANNE, scope: str = "purpose:offers", stream: str = "offers"
    ) -> str:
        told = Unsubscription(recipient, scope, ID, stream_tag(stream))
        return f"/u/{link_ring(self.folder).seal(told)}"

    async def held(self, address: str = JEANNE) -> list[Suppression]:
        return list(await self.store.suppressions(address))

    def counted(self) -> dict[tuple[str, ...], float]:
        return dict(self.links.snapshot().counters["feedback_total"])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path)
    yield found
    await found.client.aclose()
    await found.store.close()


async def test_looking_at_the_link_changes_nothing(site: Site) -> None:
    for method in ("GET", "HEAD"):
        response = await site.client.request(method, site.link())
        assert response.status_code == 200
    assert await site.held() == []
    assert site.counted() == {}


async def test_one_post_unsubscribes(site: Site) -> None:
    response = await site.client.post(site.link(), data=ONE_CLICK)
    assert response.status_code == 200
    assert "You are unsubscribed" in response.text
    (held,) = await site.held()
    assert (held.scope, held.origin, held.since) == ("purpose:offers", "unsubscribe", T0)
    assert held.note == f"link of id={ID}"
    assert site.counted() == {OFFERS: 1}


async def test_multipart_forms_of_mail_programs_are_read(site: Site) -> None:
    body = (
        b'--0123\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\n'
        b"One-Click\r\n--0123--\r\n"
    )
    kind = {"Content-Type": 'multipart/form-data; boundary="0123"'}
    response = await site.client.post(site.link(), content=body, headers=kind)
    assert response.status_code == 200
    assert len(await site.held()) == 1


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "Multipart/Form-Data; x=y"]
)
async def test_an_unreadable_form_is_rejected(site: Site, kind: str) -> None:
    response = await site.client.post(
        site.link(), content=b"--\r\n\r\n--", headers={"Content-Type": kind}
    )
    assert response.status_code == 400


@pytest.mark.parametrize("body", ["", "List-Unsubscribe=yes", "x=" + "y" * 20_000, "\xff=1", "&&="])
async def test_an_empty_post_shows_the_button(site: Site, body: str) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await site.client.post(site.link(), content=body.encode("latin-1"), headers=kind)
    assert response.status_code == 400
    assert "<button>" in response.text
    assert await site.held() == []


async def test_unsubscribing_again_counts_once(site: Site) -> None:
    first = await site.client.post(site.link(), data=ONE_CLICK)
    site.now += timedelta(minutes=5)
    again = await site.client.post(site.link(), data=ONE_CLICK)
    assert (first.status_code, first.text) == (again.status_code, again.text)
    (held,) = await site.held()
    assert held.since == site.now, "the newer unsubscribe outweighs a consent given in between"
    assert site.counted() == {OFFERS: 1}


async def test_the_page_does_not_reveal_whether_an_address_is_known(site: Site) -> None:
    await site.client.post(site.link(), data=ONE_CLICK)
    for ask in ("GET", "POST"):
        pages = {
            (r.status_code, r.text, str(r.headers))
            for who in (JEANNE, "nobody@people.example")
            for r in [await site.client.request(ask, site.link(who), data=ONE_CLICK)]
        }
        assert len(pages) == 1
        assert not any(JEANNE in text for _, text, _ in pages)


@pytest.mark.parametrize(
    ("scope", "stream", "stops"),
    [
        ("purpose:of-old", "offers", "purpose:offers"),
        ("brand:of-old", "offers", "purpose:offers"),
        ("purpose:of-old", "gone", "marketing"),
        ("purpose:offers", "gone", "purpose:offers"),
    ],
)
async def test_a_link_for_a_removed_name_stops_what_exists_now(
    site: Site, scope: str, stream: str, stops: str
) -> None:
    response = await site.client.post(site.link(scope=scope, stream=stream), data=ONE_CLICK)
    assert response.status_code == 200
    assert [held.scope for held in await site.held()] == [stops]


async def test_an_invalid_link_is_refused(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    foreign = Site(other)
    good = site.link()
    texts = set()
    for link in (
        "/u/x",
        good[:-1],
        good + "A",
        good[:-2] + ("AA" if good[-2:] != "AA" else "BA"),
        foreign.link(),
        "/u/%00",
        "/u/",
        good + "/",
        good + "/x",
    ):
        for method in ("GET", "POST"):
            response = await site.client.request(method, link, data=ONE_CLICK)
            assert response.status_code == 404, link
            texts.add(response.text)
    assert len(texts) == 1, "the page gives no reason"
    await foreign.client.aclose()


async def test_a_failure_is_shown_and_does_not_look_like_success(site: Site) -> None:
    site.down = True
    response = await site.client.post(site.link(), data=ONE_CLICK)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "60"
    assert "not unsubscribed yet" in response.text
    assert site.links.snapshot().counters["web_failures_total"] == {("unsubscribe",): 1}
    site.down = False
    assert (await site.client.post(site.link(), data=ONE_CLICK)).status_code == 200


async def test_unusable_keys_are_a_failure_and_not_an_invalid_link(site: Site) -> None:
    link = site.link()
    (site.folder / LINK_KEY_FILE).chmod(0o644)
    for method in ("GET", "POST"):
        assert (await site.client.request(method, link, data=ONE_CLICK)).status_code == 503
    (site.folder / LINK_KEY_FILE).chmod(0o600)
    assert (await site.client.get(link)).status_code == 200


async def test_a_link_for_a_very_long_address_holds_its_key(site: Site) -> None:
    long = "a" * 64 + "@" + "d" * 60 + ".example"
    key = load_keys(Path(site.store.folder.name)).newest
    text = key.text(key.pair(long))
    assert (await site.client.post(site.link(text), data=ONE_CLICK)).status_code == 200
    (held,) = await site.held(long)
    assert held.scope == "purpose:offers"
    assert site.counted() == {("unsubscribe", "unknown"): 1}
    retired = text.replace(key.fingerprint, "00000000")
    response = await site.client.post(site.link(retired), data=ONE_CLICK)
    assert response.status_code == 410
    assert "can no longer be used" in response.text


async def test_the_scope_of_all_marketing(site: Site) -> None:
    link = site.link(scope="marketing", stream="gone")
    assert "no more advertising" in (await site.client.get(link)).text
    await site.client.post(link, data=ONE_CLICK)
    (held,) = await site.held()
    assert held.scope == "marketing"
    assert site.counted() == {("unsubscribe", "unknown"): 1}


async def test_each_link_has_its_own_rate(site: Site) -> None:
    codes = [(await site.client.post(site.link(), data=ONE_CLICK)).status_code for _ in range(12)]
    assert codes == [200] * 10 + [429] * 2
    other = await site.client.post(site.link("paul@people.example"), data=ONE_CLICK)
    assert other.status_code == 200
    site.clock += 60
    assert (await site.client.post(site.link(), data=ONE_CLICK)).status_code == 200


async def test_a_new_key_is_read_without_a_restart(site: Site) -> None:
    old = site.link()
    assert (await site.client.get(old)).status_code == 200
    add_link_key(site.folder, T0.date())
    new = site.link()
    assert old != new
    for link in (new, old):
        assert (await site.client.post(link, data=ONE_CLICK)).status_code == 200


async def test_the_unsubscribe_page(site: Site) -> None:
    response = await site.client.get(site.link(), headers={"Accept-Language": "fr-FR,fr;q=0.9"})
    text = response.text
    assert '<html lang="fr">' in text
    assert "Se désinscrire" in text
    assert set(re.findall(r'<form method="(\w+)">', text)) == {"post"}
    assert not re.search(r"https?://|src=|href=|@import|url\(", text), "nothing from another host"
    assert "set-cookie" not in response.headers
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self'" in policy
    assert response.headers["Vary"] == "Accept-Language"
    assert response.headers["X-Robots-Tag"] == "noindex, nofollow"


@pytest.mark.parametrize(
    ("asked", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CA, en;q=0.8", "fr"),
        ("ja, en;q=0.5, fr;q=0.7", "fr"),
        ("nl-BE, de;q=0.9", "nl"),
        ("en-GB,fr;q=0.9", "en"),
        ("de", "de"),
        ("ja", "en"),
        ("fr;q=x, ;;,", "en"),
        ("fr;q=0", "en"),
    ],
)
async def test_the_page_in_every_language(site: Site, asked: str, language: str) -> None:
    response = await site.client.get(site.link(), headers={"Accept-Language": asked})
    assert f'<html lang="{language}">' in response.text
