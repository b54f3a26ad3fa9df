"""The pages about reasons: public, in the reader's language, without personal data."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from smtpproxy.config import parse
from smtpproxy.locale import PAGE_LANGS
from smtpproxy.policy.model import BUILT_IN_BRAND, Reason
from smtpproxy.web.look import looks
from smtpproxy.web.why import reason_pages
from tests.kit.chromium import Chromium
from tests.web.test_unsubscribe import CONFIG

REASONS = [reason for reason in Reason if reason is not Reason.NONE]


def app() -> Starlette:
    return Starlette(routes=reason_pages(looks(parse(CONFIG, "x.toml"))[BUILT_IN_BRAND]))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app()), base_url="http://relay.example"
    ) as client:
        yield client


@pytest.mark.parametrize("lang", PAGE_LANGS)
async def test_every_reason_has_a_page(client: httpx.AsyncClient, lang: str) -> None:
    seen = set()
    for reason in REASONS:
        answer = await client.get(f"/why/{reason}", headers={"Accept-Language": f"{lang};q=0.9"})
        assert answer.status_code == 200
        assert f'<html lang="{lang}">' in answer.text
        assert f"<code>{reason}</code>" in answer.text
        assert "`" not in answer.text
        seen.add(answer.text)
    assert len(seen) == len(REASONS)


async def test_a_page_says_what_to_do(client: httpx.AsyncClient) -> None:
    page = (await client.get("/why/unsubscribe_missing")).text
    assert (
        "Add to the header of each message <code>List-Unsubscribe: &lt;https://…&gt;</code>" in page
    )
    assert "explain --id ID" in page
    french = await client.get("/why/unsubscribe_missing", headers={"Accept-Language": "fr-CA"})
    assert "Que faire" in french.text
    danish = await client.get("/why/unsubscribe_missing", headers={"Accept-Language": "da"})
    assert '<html lang="en">' in danish.text


async def test_a_page_is_cacheable_and_loads_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/why/no_record")
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert "Accept-Language" in answer.headers["vary"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert (await client.head("/why/no_record")).status_code == 200
    assert (await client.post("/why/no_record")).status_code == 405


@pytest.mark.parametrize("path", ["/why/", "/why/none", "/why/NO_RECORD", "/why/<b>", "/why/a/b"])
async def test_other_paths_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert "<b>" not in answer.text


@pytest.mark.needs("chromium")
async def test_pages_fit_the_window(client: httpx.AsyncClient, tmp_path: Path) -> None:
    pages = {}
    for reason, lang in (("single_recipient_required", "fr"), ("one_click_missing", "de")):
        answer = await client.get(f"/why/{reason}", headers={"Accept-Language": lang})
        pages[reason] = answer.text
    with Chromium(tmp_path / "profile") as browser:
        for reason, page in pages.items():
            file = tmp_path / f"{reason}.html"
            file.write_text(page, "utf-8")
            browser.open(file.as_uri())
            for width, dark in ((1024, False), (320, True)):
                browser.resize(width, dark=dark)
                assert browser.run("document.documentElement.scrollWidth") <= width
