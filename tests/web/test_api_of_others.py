"""What a token for one brand never learns of others, and requests that are wrong at their edges."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.serving import serving
from tests.web.test_api_writes import (
    ANNA,
    CONTACT,
    GET,
    RECORD,
    SUPPRESS,
    WITHDRAW,
    Writes,
    two_brands,
)

SEARCH = "/v1/decisions/search"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Writes]:
    async with serving(Writes, two_brands(tmp_path)) as served:
        yield served


async def test_the_place_of_a_page_tells_of_no_other_brand(site: Writes) -> None:
    for n in range(4):
        for scope in ("brand:mill", "brand:shop"):
            await site.suppress({"address": f"a{n}@people.example", "scope": scope})
    found, after, pages = [], "", 0
    while after is not None:
        page = (await site.ask(f"{SUPPRESS}?limit=1&after={after}", "shop")).json
        found += [one["scope"] for one in page["suppressions"]]
        after, pages = page["next"], pages + 1
        assert b"mill" not in base64.urlsafe_b64decode((after or "") + "===")
    assert (found, pages) == (["brand:shop"] * 4, 4)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (RECORD, {"purpose": "lottery", "method": "unticked_box", "wording": "x"}),
        (RECORD, {"purpose": "grain", "method": "unticked_box", "wording": "x"}),
        (CONTACT, {"brand": "nobody", "source": "direct"}),
        (CONTACT, {"brand": "mill", "source": "direct"}),
        (CONTACT, {"consents": [{"purpose": "lottery", "given_at": "2026-01-01T00:00:00Z"}]}),
        (CONTACT, {"consents": [{"purpose": "grain", "given_at": "2026-01-01T00:00:00Z"}]}),
    ],
)
async def test_faults_name_nothing_of_other_brands(
    site: Writes, path: str, asked: dict[str, str]
) -> None:
    answer = await site.post(path, {"address": ANNA, **asked}, "shop")
    assert answer.status == 400
    said = answer.json["detail"].replace(f"{asked.get('brand')!r}", "")
    said = said.replace("'grain'", "")
    assert "grain" not in said
    assert "mill" not in said
    assert "offers" in said or "shop" in said


async def test_a_period_before_all_time_is_a_wrong_one(site: Writes) -> None:
    for until in ("0001-01-01T00:00:00Z", "0001-01-03"):
        answer = await site.post(SEARCH, {"recipient": ANNA, "until": until}, "all")
        assert answer.status in (200, 400)


async def test_blank_wording_is_no_proof(site: Writes) -> None:
    act = {"address": ANNA, "brand": "shop", "purpose": "offers", "method": "unticked_box"}
    for text in ("   ", "\n", "\0", "a\0"):
        answer = await site.post(RECORD, {**act, "wording": text}, "all")
        assert (answer.status, answer.json["error"]) == (400, "body_wrong")
    consent = {"purpose": "offers", "given_at": "2026-01-01T00:00:00Z"}
    line = {"brand": "shop", "consents": [{**consent, "evidence": {"wording": "  "}}]}
    await site.post(CONTACT, {"address": ANNA, **line}, "all")
    (known,) = (await site.post(GET, {"address": ANNA}, "all")).json["contact"]["consents"]
    assert not (known.get("evidence") or {}).get("wording")


async def test_a_withdrawal_is_from_a_purpose_as_imports_read_it(site: Writes) -> None:
    for purpose in ("a\nb", "a\0b", "x" * 201):
        answer = await site.post(WITHDRAW, {"address": ANNA, "purpose": purpose}, "all")
        assert answer.status == 400


async def test_what_is_changed_meanwhile_suppresses_nobody(site: Writes) -> None:
    withdrawal = {"purpose": "lottery", "withdrawn_at": "2026-01-01T00:00:00Z"}
    line = json.dumps({"address": ANNA, "consents": [withdrawal]}).encode()
    answer = await site.post(CONTACT, line, "all", {"If-Match": '"0"'})
    assert (answer.status, answer.json["error"]) == (412, "changed_meanwhile")
    assert await site.known() == []


async def test_a_text_with_nul_is_wrong_for_every_store(site: Writes) -> None:
    asked = {"address": ANNA, "note": "a\0b", "scope": "marketing"}
    answer = await site.post(SUPPRESS, {"suppressions": [asked], "keep_notes": True}, "all")
    assert (answer.status, answer.json["error"]) == (400, "body_wrong")
    assert "NUL" in answer.json["detail"]
    answer = await site.post("/v1/streams/pause", {"stream": "offers", "reason": "a\0b"}, "all")
    assert answer.status == 400


async def test_a_consent_that_was_taken_back_since_or_is_restricted_says_so(site: Writes) -> None:
    act = {"address": ANNA, "brand": "shop", "purpose": "offers", "method": "unticked_box"}
    act |= {"wording": "x", "source": "direct"}
    await site.post(WITHDRAW, {"address": ANNA, "purpose": "offers", "brand": "shop"}, "all")
    late = await site.post(RECORD, act | {"given_at": "2020-01-01T00:00:00Z"}, "all")
    assert late.json["warnings"] == [
        "they will still not be mailed on the stream offers: consent_withdrawn"
    ]
    await site.post(CONTACT, {"address": ANNA, "tags": ["restricted"]}, "all")
    again = await site.post(RECORD, act, "all")
    assert again.json["warnings"] == [
        "they will still not be mailed on the stream offers: contact_restricted"
    ]
