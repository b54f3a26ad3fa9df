"""Verdicts, decisions and streams by the API, and requests that are repeated."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from smtpproxy.policy.model import ConsentAct, Contact, Evidence, Origin, Source
from smtpproxy.store.records import SuppressionEntry
from tests.kit.journal import Clock, decided, journal, relayed
from tests.web.serving import serving
from tests.web.test_api_writes import (
    ANNA,
    CONTACT,
    LIFT,
    RECORD,
    SUPPRESS,
    WITHDRAW,
    Writes,
    two_brands,
)

CHECK, SEARCH, STREAMS = "/v1/check", "/v1/decisions/search", "/v1/streams"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Writes]:
    async with serving(Writes, two_brands(tmp_path)) as served:
        yield served


async def test_a_check_gives_the_relays_verdict(site: Writes) -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    act = ConsentAct("offers", at, method="unticked_box", evidence=Evidence("Yes"), brand="shop")
    anna = Contact(ANNA, source=Source.DIRECT, brand="shop", acts=(act,))
    await site.store.put_contacts([anna])
    await site.store.add_suppressions(
        [SuppressionEntry("carl@people.example", "all", Origin.COMPLAINT, at)]
    )
    people = [ANNA, "carl@people.example", "nobody", "b@x.example"]
    asked = {"stream": "offers", "addresses": people}
    for who in ("all", "shop"):
        anna_, carl, nobody, other = (await site.post(CHECK, asked, who)).json["verdicts"]
        assert anna_ == {
            "address": ANNA, "verdict": "allow", "basis": "consent", "since": "2026-11-01",
        }  # fmt: skip
        assert (carl["verdict"], carl["reason"]) == ("refuse", "suppressed_complaint")
        assert nobody == {"address": "nobody", "error": "not a mail address"}
        assert other["reason"] == "no_record"
    many = await site.post(CHECK, {"stream": "offers", "addresses": [ANNA] * 1_001}, "all")
    assert (many.status, many.json["error"]) == (413, "too_large")
    for stream in ("grain", "nowhere"):
        answer = await site.post(CHECK, {"stream": stream, "addresses": [ANNA]}, "shop")
        assert (answer.status, answer.json["error"]) == (400, "stream_wrong")
        assert "gazette" not in answer.text


async def test_a_suppression_for_a_removed_brand_counts_for_all(site: Writes) -> None:
    gone = SuppressionEntry(ANNA, "brand:gone", Origin.OBJECTION, datetime.now(UTC))
    await site.store.add_suppressions([gone])
    assert await site.known("shop") == [("brand:gone", "objection")]
    asked = {"addresses": [ANNA], "brand": "shop"}
    (told,) = (await site.post("/v1/suppressions/check", asked, "shop")).json["results"]
    assert told["suppressed"] is True
    (told,) = (await site.post(CHECK, {"stream": "offers", "addresses": [ANNA]}, "shop")).json[
        "verdicts"
    ]
    assert told["reason"] == "suppressed_objection"
    lift = {"address": ANNA, "any_origin": True, "scope": "brand:gone", "reason": "erased"}
    assert (await site.post("/v1/suppressions/lift", lift, "shop")).status == 403


# Decisions.


async def recorded(site: Writes) -> list[str]:
    """Record five decisions about Anna, the fourth on the mill's stream; return the ids."""
    clock = Clock()
    clock.time = datetime.now(UTC) - timedelta(days=2)
    log = journal(Path(site.store.folder.name) / "audit", clock)
    ids = []
    for number in range(5):
        brand = "mill" if number == 3 else "shop"
        one = decided(clock, ANNA, message_id=f"<{number}@shop.example>")
        decision = msgspec.structs.replace(
            one.decision, stream=msgspec.structs.replace(one.decision.stream, brand=brand)
        )
        one = msgspec.structs.replace(one, decision=decision)
        await log.commit(one)
        log.outcome(relayed(one.id))
        ids.append(one.id)
        clock.tick(hours=1)
    log.close()
    return ids


async def test_decisions_are_found_by_id_recipient_and_message_id(site: Writes) -> None:
    ids = await recorded(site)
    one = (await site.ask(f"/v1/decisions/{ids[0]}", "all")).json["decisions"][0]
    assert (one["id"], one["stream"], one["relayed"]) == (ids[0], "offers", True)
    assert one["recipients"][0]["address"] == ANNA
    assert one["upstream"]["code"] == 250
    found = await site.post(SEARCH, {"message_id": "2@shop.example"}, "all")
    assert [each["id"] for each in found.json["decisions"]] == [ids[2]]
    pages, after = [], None
    for _ in range(5):
        asked = {"recipient": ANNA, "limit": 2, "after": after}
        page = (await site.post(SEARCH, asked, "all")).json
        pages.append([each["id"] for each in page["decisions"]])
        after = page["next"]
        if after is None:
            break
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


async def test_decisions_are_found_within_a_period_and_on_a_stream(site: Writes) -> None:
    ids = await recorded(site)
    middle = (await site.ask(f"/v1/decisions/{ids[2]}", "all")).json["decisions"][0]["at"]
    for more, expected in (
        ({"since": middle}, ids[:1:-1]),
        ({"until": middle}, ids[1::-1]),
        ({"stream": "offers"}, ids[::-1]),
        ({"stream": "grain"}, []),
    ):
        found = (await site.post(SEARCH, {"recipient": ANNA, **more}, "all")).json["decisions"]
        assert [each["id"] for each in found] == expected, more


async def test_a_brand_sees_only_the_decisions_on_its_streams(site: Writes) -> None:
    ids = await recorded(site)
    found = (await site.post(SEARCH, {"recipient": ANNA}, "shop")).json["decisions"]
    assert [each["id"] for each in found] == [ids[4], ids[2], ids[1], ids[0]]
    assert "facts" not in found[0]["recipients"][0]
    other = await site.ask(f"/v1/decisions/{ids[3]}", "shop")
    nobody = await site.ask(f"/v1/decisions/{'0' * 26}", "shop")
    assert (other.status, other.json) == (404, nobody.json)


WITHOUT_ZONE = b64encode(msgspec.msgpack.encode(("2026-03-01T10:00:00", "", "", 0))).decode()


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"recipient": ANNA, "message_id": "x"},
        {"recipient": "nobody"},
        {"recipient": ""},
        {"recipient": ANNA, "since": ""},
        {"recipient": ANNA, "after": ""},
        {"message_id": ""},
        {"recipient": ANNA, "since": "2020-01-01"},
        {"recipient": ANNA, "since": "2026-03-02", "until": "2026-03-01"},
        {"recipient": ANNA, "since": "soon"},
        {"recipient": ANNA, "after": "x"},
        {"recipient": ANNA, "after": "gA"},
        {"recipient": ANNA, "after": WITHOUT_ZONE},
        {"recipient": ANNA, "limit": 101},
    ],
)
async def test_a_wrong_search_is_rejected(site: Writes, asked: dict[str, Any]) -> None:
    answer = await site.post(SEARCH, asked, "all")
    assert (answer.status, answer.json["error"]) == (400, "body_wrong")
    for id in ("x", "é" * 26, "!" * 26):
        found = await site.ask(f"/v1/decisions/{id.encode().hex()[:26] if id[0] == 'é' else id}",
                               "all")  # fmt: skip
        assert found.status in (400, 404)


# Streams.


async def test_a_stream_is_paused_and_resumed(site: Writes) -> None:
    paused = await site.post(f"{STREAMS}/pause", {"stream": "offers", "reason": "a test"}, "all")
    assert paused.json == {"subject": "stream:offers", "paused": True}
    again = await site.post(f"{STREAMS}/pause", {"stream": "offers"}, "all")
    assert again.status == 200
    streams = (await site.ask(STREAMS, "all")).json["streams"]
    states = {one["stream"]: one["state"] for one in streams}
    assert (states["offers"], states["grain"]) == ("paused", "running")
    resumed = await site.post(f"{STREAMS}/resume", {"stream": "offers"}, "all")
    assert resumed.json == {"subject": "stream:offers", "resumed": True, "campaigns": 0}
    resumed = await site.post(f"{STREAMS}/resume", {"stream": "offers"}, "all")
    assert resumed.json["resumed"] is False


async def test_a_pause_shows_in_verdicts_at_once(site: Writes) -> None:
    consent = {"address": ANNA, "purpose": "offers", "brand": "shop", "source": "direct"}
    await site.post(RECORD, consent | {"method": "unticked_box", "wording": "Yes"}, "all")

    async def told() -> Any:
        asked = {"stream": "offers", "addresses": [ANNA]}
        return (await site.post(CHECK, asked, "all")).json["verdicts"][0]["verdict"]

    before = await told()
    await site.post(f"{STREAMS}/pause", {"stream": "offers", "reason": "a test"}, "all")
    meanwhile = await told()
    await site.post(f"{STREAMS}/resume", {"stream": "offers"}, "all")
    assert [before, meanwhile, await told()] == ["allow", "defer", "allow"]


async def test_only_a_brands_own_token_can_pause_its_streams(site: Writes) -> None:
    seen = (await site.ask(STREAMS, "shop")).json["streams"]
    assert {one["brand"] for one in seen} == {"shop"}
    for name in ("grain", "brand:mill", "default", "nowhere", "brand:"):
        for what in ("pause", "resume"):
            answer = await site.post(f"{STREAMS}/{what}", {"stream": name}, "shop")
            assert (answer.status, answer.json["error"]) == (400, "stream_wrong")
            assert "mill" not in answer.text.replace(name, "")
    assert (await site.post(f"{STREAMS}/pause", {"stream": "brand:shop"}, "shop")).status == 200
    assert [pause.subject for pause in await site.store.pauses()] == ["brand:shop"]


async def test_a_pause_that_is_over_does_not_count(site: Writes) -> None:
    for until in ("2020-01-01T00:00:00Z", "soon"):
        answer = await site.post(f"{STREAMS}/pause", {"stream": "offers", "until": until}, "all")
        assert (answer.status, answer.json["error"]) == (400, "body_wrong")


# Repeated requests.

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
CONSENT = {"address": ANNA, "purpose": "offers", "brand": "shop", "method": "unticked_box",
           "wording": "Yes", "source": "direct"}  # fmt: skip


async def acts(site: Writes) -> int:
    contact = await site.store.contact(ANNA)
    return 0 if contact is None else len(contact.acts)


async def test_a_repeated_request_with_the_same_key_is_done_once(site: Writes) -> None:
    first = await site.post(RECORD, CONSENT, "all", KEY)
    again = await site.post(RECORD, CONSENT, "all", KEY)
    assert (first.status, first.text) == (again.status, again.text)
    assert await acts(site) == 1
    await site.post(RECORD, CONSENT, "all")
    assert await acts(site) == 2, "without the key it is a new act"
    made = await site.post(CONTACT, {"address": "b@x.example", "brand": "shop"}, "all",
                           {"Idempotency-Key": "b"})  # fmt: skip
    once = await site.post(CONTACT, {"address": "b@x.example", "brand": "shop"}, "all",
                           {"Idempotency-Key": "b"})  # fmt: skip
    assert (made.json["result"], made.headers["etag"]) == ("added", once.headers["etag"])
    assert once.json == made.json


async def test_a_key_belongs_to_one_request_and_one_token(site: Writes) -> None:
    await site.post(RECORD, CONSENT, "all", KEY)
    other = await site.post(RECORD, CONSENT | {"wording": "No"}, "all", KEY)
    assert (other.status, other.json["error"]) == (422, "key_reused")
    elsewhere = await site.post(SUPPRESS, {"suppressions": [{"address": ANNA}]}, "all", KEY)
    assert elsewhere.status == 422
    assert (await site.post(RECORD, CONSENT, "shop", KEY)).status == 200
    assert await acts(site) == 2
    for wrong in ("", "x" * 256, "a b"):
        answer = await site.post(RECORD, CONSENT, "all", {"Idempotency-Key": wrong})
        assert (answer.status, answer.json["error"]) == (400, "parameter_wrong")


async def test_a_failed_request_can_be_repeated_with_its_key(site: Writes) -> None:
    site.store.fail_with = "locked"
    assert (await site.post(RECORD, CONSENT, "all", KEY)).status == 503
    site.store.fail_with = None
    assert (await site.post(RECORD, CONSENT, "all", KEY)).json["recorded"] is True


async def test_two_concurrent_requests_with_one_key_are_one(site: Writes) -> None:
    answers = await asyncio.gather(*(site.post(RECORD, CONSENT, "all", KEY) for _ in range(8)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert len({answer.text for answer in answers if answer.status == 200}) == 1
    assert await acts(site) == 1


async def test_no_stored_answer_holds_an_address(site: Writes) -> None:
    await site.post(RECORD, CONSENT, "all", KEY)
    asked = {"suppressions": [{"address": ANNA}]}
    await site.post(SUPPRESS, asked, "all", {"Idempotency-Key": "s"})
    await site.post(CONTACT, {"address": ANNA, "brand": "shop"}, "all", {"Idempotency-Key": "c"})
    kept = list(Path(site.store.folder.name).glob("store-answers.db*"))  # noqa: ASYNC240
    assert len(kept) == 3
    assert not [file for file in kept if b"anna" in file.read_bytes()]


async def test_an_unknown_path_is_answered_with_a_problem(site: Writes) -> None:
    for path, method, status, error in (
        ("/v1/nothing", "GET", 404, "not_found"),
        ("/v1/contacts/anna%2fb", "GET", 404, "not_found"),
        (CHECK, "DELETE", 405, "not_allowed"),
        (f"/v1/{'x' * 8_000}", "GET", 414, "target_too_long"),
    ):
        answer = await site.ask(path, "all", method=method)
        assert (answer.status, answer.json["error"]) == (status, error)
        assert "expected" in answer.json["detail"] or status == 414
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await site.ask(SEARCH, "all", method="PUT")).headers["allow"] == "POST"
    assert json.loads((await site.ask("/nothing", None)).text) == {"error": "Not Found"}


async def test_a_request_that_needs_an_unset_setting_names_it(site: Writes) -> None:
    answer = await site.post("/v1/consents", {"address": ANNA, "purpose": "offers"}, "all")
    assert answer.status == 404
    assert "[confirmation]" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "body", "right"),
    [
        (SUPPRESS, {"suppressions": [{"address": ANNA, "origin": "x"}]}, "origin: 'x' is unknown; "
         "expected one of "),
        (RECORD, CONSENT | {"source": "moon"}, "direct"),
        ("/v1/imports?kind=people", None, "contacts, suppressions"),
        ("/v1/suppressions/check", {"addresses": [], "brand": "shpo"}, "known: mill, shop"),
    ],
)  # fmt: skip
async def test_an_unknown_word_is_answered_with_the_known_ones(
    site: Writes, path: str, body: Any, right: str
) -> None:
    answer = await site.post(path, body, "all")
    assert answer.status == 400
    assert right in answer.json["detail"]


async def test_the_author_of_each_write_is_recorded(site: Writes) -> None:
    await site.suppress({"address": ANNA, "scope": "brand:shop"}, who="shop")
    act = {"address": ANNA, "purpose": "offers", "brand": "shop"}
    await site.post(RECORD, act | {"method": "unticked_box", "wording": "Yes"}, "all")
    await site.post(WITHDRAW, act, "shop")
    line = {"purpose": "news", "given_at": "2026-01-01T00:00:00Z", "brand": "shop"}
    await site.post(CONTACT, {"address": ANNA, "brand": "shop", "consents": [line]}, "both")
    assert await site.store.authors(ANNA) == {("brand:shop", "manual"): "token shop"}
    contact = await site.store.contact(ANNA)
    assert contact is not None
    assert [one.evidence.recorded_by for one in contact.acts] == [
        "token both", "token all", "token shop",
    ]  # fmt: skip
    lift = {
        "address": ANNA,
        "any_origin": True,
        "scope": "brand:shop",
        "reason": "added by mistake",
    }
    await site.post(LIFT, lift, "all")
    (lifted,) = await site.store.lifted_suppressions(ANNA)
    assert (lifted.given_by, lifted.lifted_by) == ("token shop", "token all")
