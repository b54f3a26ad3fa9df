"""A token for one brand learns nothing about others; odd requests are refused."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from smtpproxy.events import JudgedRecipient
from smtpproxy.policy.model import (
    Action,
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    Origin,
    Reason,
    RecipientFacts,
    Source,
    Verdict,
)
from smtpproxy.store.records import SuppressionEntry
from tests.kit.journal import Clock, decided, journal
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

SEARCH, VERDICTS = "/v1/decisions/search", "/v1/check"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Writes]:
    async with serving(Writes, two_brands(tmp_path)) as served:
        yield served


async def test_page_positions_reveal_nothing_about_other_brands(site: Writes) -> None:
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
async def test_errors_reveal_nothing_about_other_brands(
    site: Writes, path: str, asked: dict[str, str]
) -> None:
    answer = await site.post(path, {"address": ANNA, **asked}, "shop")
    assert answer.status == 400
    said = answer.json["detail"].replace(f"{asked.get('brand')!r}", "")
    said = said.replace("'grain'", "")
    assert "grain" not in said
    assert "mill" not in said
    assert "offers" in said or "shop" in said


async def test_a_period_before_the_calendar_is_rejected(site: Writes) -> None:
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


async def test_a_withdrawal_needs_a_purpose_that_imports_would_accept(site: Writes) -> None:
    for purpose in ("a\nb", "a\0b", "x" * 201):
        answer = await site.post(WITHDRAW, {"address": ANNA, "purpose": purpose}, "all")
        assert answer.status == 400


async def test_a_rejected_stale_update_suppresses_nobody(site: Writes) -> None:
    withdrawal = {"purpose": "lottery", "withdrawn_at": "2026-01-01T00:00:00Z"}
    line = json.dumps({"address": ANNA, "consents": [withdrawal]}).encode()
    answer = await site.post(CONTACT, line, "all", {"If-Match": '"0"'})
    assert (answer.status, answer.json["error"]) == (412, "changed_meanwhile")
    assert await site.known() == []


async def test_text_with_nul_is_rejected_with_every_store(site: Writes) -> None:
    asked = {"address": ANNA, "note": "a\0b", "scope": "marketing"}
    answer = await site.post(SUPPRESS, {"suppressions": [asked], "keep_notes": True}, "all")
    assert (answer.status, answer.json["error"]) == (400, "body_wrong")
    assert "NUL" in answer.json["detail"]
    half = {"address": ANNA, "note": "\ud800", "scope": "marketing"}
    answer = await site.post(SUPPRESS, {"suppressions": [half]}, "all")
    assert (answer.status, answer.json["error"]) == (400, "body_wrong")
    assert r"\ud800 at place" in answer.json["detail"]
    answer = await site.post("/v1/streams/pause", {"stream": "offers", "reason": "a\0b"}, "all")
    assert answer.status == 400


async def test_recording_a_consent_that_will_not_count_warns(site: Writes) -> None:
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


BERT = "bert@people.example"
_AT = datetime(2026, 3, 1, tzinfo=UTC)


def of_the_mill(address: str = BERT, **more: Any) -> Contact:
    act = ConsentAct("grain", _AT, method="unticked_box", evidence=Evidence("Yes"), brand="mill")
    return Contact(address, source=Source.DIRECT, brand="mill", acts=(act,), **more)


@pytest.mark.parametrize(
    "known",
    [
        of_the_mill(),
        of_the_mill(tags=frozenset({"restricted"})),
        of_the_mill(audience=Audience.PROFESSIONAL),
        Contact(BERT, source=Source.PURCHASED, brand="mill"),
        Contact(BERT, acts=(ConsentAct("grain", _AT, withdrawal=True, brand="mill"),)),
    ],
)
async def test_a_verdict_does_not_reveal_that_another_brand_knows_the_person(
    site: Writes, known: Contact
) -> None:
    await site.store.put_contacts([known])
    for stream in ("offers", "news"):
        asked = {"stream": stream, "addresses": [BERT, "nobody@people.example"]}
        bert, nobody = (await site.post(VERDICTS, asked, "shop")).json["verdicts"]
        assert {**bert, "address": ""} == {**nobody, "address": ""}
        assert bert["reason"] == "no_record"
    told = (await site.post(VERDICTS, {"stream": "offers", "addresses": [BERT]}, "all")).json
    assert told["verdicts"][0]["reason"] in ("brand_unproven", "contact_restricted")


async def test_a_verdict_is_true_where_the_reason_is_hidden(site: Writes) -> None:
    """An organisation's address may be mailed, but not one recorded as a person's."""
    await site.store.put_contacts([of_the_mill("info@works.example", audience=Audience.CONSUMER)])
    asked = {"stream": "offers", "addresses": ["info@works.example", "info@other.example"]}
    works, other = (await site.post(VERDICTS, asked, "shop")).json["verdicts"]
    assert (works["verdict"], works["reason"]) == ("refuse", "no_record")
    assert (other["verdict"], other["basis"]) == ("allow", "generic_address")


async def test_orders_about_all_mail_are_shown_whoever_knows_the_person(site: Writes) -> None:
    await site.store.put_contacts([of_the_mill()])
    await site.store.add_suppressions([SuppressionEntry(BERT, "all", Origin.COMPLAINT, _AT)])
    asked = {"stream": "offers", "addresses": [BERT]}
    (told,) = (await site.post(VERDICTS, asked, "shop")).json["verdicts"]
    assert (told["reason"], told["since"]) == ("suppressed_complaint", "2026-03-01")


async def test_a_decision_does_not_reveal_that_another_brand_knows_the_person(site: Writes) -> None:
    clock = Clock()
    clock.time = datetime.now(UTC) - timedelta(days=1)
    log = journal(Path(site.store.folder.name) / "audit", clock)
    refused = Verdict(Action.REFUSE, Reason.BRAND_UNPROVEN, rule="source")
    judged = JudgedRecipient(BERT, BERT, refused)
    one = decided(clock, recipients=(judged,), facts={BERT: RecipientFacts(contact=of_the_mill())})
    stream = msgspec.structs.replace(one.decision.stream, brand="shop")
    one = msgspec.structs.replace(
        one, decision=msgspec.structs.replace(one.decision, stream=stream)
    )
    await log.commit(one)
    log.close()
    for who, reason, rule in (
        ("shop", "no_record", "no_record"),
        ("all", "brand_unproven", "source"),
    ):
        for answer in (
            await site.post(SEARCH, {"recipient": BERT}, who),
            await site.ask(f"/v1/decisions/{one.id}", who),
        ):
            (shown,) = answer.json["decisions"][0]["recipients"]
            assert (shown["reason"], shown["rule"]) == (reason, rule)
            assert who == "all" or "mill" not in answer.text


async def test_a_withdrawal_reveals_no_purpose_of_other_brands(site: Writes) -> None:
    asked = {"address": BERT, "purpose": "grain"}
    answer = await site.post(WITHDRAW, asked, "shop")
    unknown = await site.post(WITHDRAW, {**asked, "purpose": "nowhere"}, "shop")
    assert (answer.status, unknown.status) == (400, 400)
    assert answer.text.replace("grain", "nowhere") == unknown.text


async def test_a_brand_records_refusals_of_everything_for_itself_alone(site: Writes) -> None:
    withdrawal = {"purpose": "*", "withdrawn_at": "2026-01-01T00:00:00Z"}
    answer = await site.post(CONTACT, {"address": ANNA, "consents": [withdrawal]}, "shop")
    assert answer.status == 200
    withdrawal["brand"] = "mill"
    answer = await site.post(CONTACT, {"address": ANNA, "consents": [withdrawal]}, "shop")
    assert answer.status == 403
    contact = (await site.contact()).json["contact"]
    (known,) = contact["consents"]
    assert (known["purpose"], known.get("brand", contact["brand"])) == ("*", "shop")


async def test_a_withdrawal_from_everything_stops_the_mail_of_no_other_brand(site: Writes) -> None:
    asked = {"address": BERT, "purpose": "*", "brand": "shop"}
    for who in ("shop", "all"):
        answer = await site.post(WITHDRAW, asked, who)
        assert (answer.status, answer.json["warnings"]) == (200, [])
    assert (await site.post(WITHDRAW, {**asked, "brand": "mill"}, "shop")).status == 403
    assert not await site.store.suppressions(BERT)


async def test_json_that_parsers_read_differently_is_refused(site: Writes) -> None:
    for body in (
        b'{"suppressions": [{"address": "a@x.example", "address": "b@x.example"}]}',
        b'{"suppressions": [], "suppressions": [{"address": "b@x.example"}]}',
    ):
        answer = await site.post(SUPPRESS, body, "all")
        assert (answer.status, answer.json["error"]) == (400, "body_wrong")
        assert "twice" in answer.json["detail"]
    line = b'{"address": "a@x.example", "source": "direct", "address": "b@x.example"}'
    assert (await site.post(CONTACT, line, "all")).status == 400
    assert (await site.post(SUPPRESS, b'{"a":' * 50_000, "all")).status == 400


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (["Authorization: Bearer all", "Authorization: Bearer shop"], "header_twice"),
        (["Authorization: Bearer all", "Idempotency-Key: a", "Idempotency-Key: b"], "header_twice"),
        (["Authorization: Bearer all", 'If-Match: "a"', 'If-Match: "b"'], "header_twice"),
        (["Authorization: Bearer all", "Transfer-Encoding: chunked"], None),
    ],
)
async def test_a_header_that_matters_may_occur_once(
    site: Writes, fields: list[str], error: str | None
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    body = json.dumps({"address": BERT, "source": "direct"}).encode()
    head = ["POST /v1/contacts HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *fields]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    told = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    assert told.startswith("HTTP/1.1 400")
    if error is None:
        assert "connection: close" in told
        assert await asyncio.wait_for(reader.read(-1), 10) != b""
    else:
        assert error.encode() in await asyncio.wait_for(reader.read(500), 10)
    writer.close()
    assert await site.store.contact(BERT) is None
