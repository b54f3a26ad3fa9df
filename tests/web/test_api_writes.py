"""Writes through the API: suppressions, consents and contacts, by whom and for which brand."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import structlog
from msgspec.structs import replace

from smtpproxy.config import parse
from smtpproxy.policy.contact import collections
from smtpproxy.policy.model import ConsentAct, Contact, Evidence, Origin, Source
from smtpproxy.settings import Settings
from smtpproxy.settings.mail import Right
from smtpproxy.store.records import SuppressionEntry
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.web.serving import Answer, Site, serving, token

RIGHTS = get_args(Right)
T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ANNA = "anna@people.example"
SUPPRESS, SHOW, LIFT = "/v1/suppressions", "/v1/suppressions/show", "/v1/suppressions/lift"
RECORD, WITHDRAW = "/v1/consents/record", "/v1/consents/withdraw"
CONTACT, GET, ERASE = "/v1/contacts", "/v1/contacts/get", "/v1/contacts/erase"
PROBLEM = {"type", "title", "status", "detail", "error"}


def two_brands(folder: Path) -> Settings:
    brand = {"legal_name": "X", "address": "Rue 1"}
    given: dict[str, Any] = {
        "brand": [{"name": "shop", **brand}, {"name": "mill", **brand}],
        "stream": [
            {"name": "offers", "class": "marketing", "purpose": "offers", "brand": "shop"},
            {"name": "grain", "class": "marketing", "purpose": "grain", "brand": "mill"},
            {"name": "news", "class": "marketing", "purpose": "news", "brand": "shop"},
            {"name": "gazette", "class": "marketing", "purpose": "news", "brand": "mill"},
        ],
    }
    settings = parse(to_toml(relay_config(folder, "127.0.0.1:25", given)), "relay.toml")
    tokens = (
        token("all", *RIGHTS, per_minute=100_000),
        token("shop", *RIGHTS, per_minute=100_000, brands=frozenset({"shop"})),
        token("both", *RIGHTS, per_minute=100_000, brands=frozenset({"shop", "mill"})),
        token("none", "changes"),
    )
    return replace(settings, tokens=tokens)


class Writes(Site):
    async def suppress(self, *asked: dict[str, Any], who: str = "all") -> Answer:
        return await self.post(SUPPRESS, {"suppressions": asked}, who)

    async def known(self, who: str = "all", address: str = ANNA) -> list[tuple[str, str]]:
        found = (await self.post(SHOW, {"address": address}, who)).json["suppressions"]
        return [(one["scope"], one["origin"]) for one in found]

    async def contact(self, who: str = "all", address: str = ANNA) -> Answer:
        return await self.post(GET, {"address": address}, who)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Writes]:
    async with serving(Writes, two_brands(tmp_path)) as served:
        yield served


async def test_a_suppression_is_added_moved_shown_and_lifted(site: Writes) -> None:
    asked = {"address": "Anna@People.example", "origin": "objection", "scope": "marketing"}
    asked["note"] = "by phone"
    first = await site.suppress(asked | {"since": "2026-03-01T10:00:00Z"})
    assert (first.status, first.json["results"]) == (
        200,
        [{"result": "added", "scope": "marketing"}],
    )
    for day, result in (("03-02", "moved"), ("03-02", "unchanged"), ("02-01", "unchanged")):
        again = await site.suppress(asked | {"since": f"2026-{day}T10:00:00Z"})
        assert again.json["results"][0]["result"] == result
    assert await site.known() == [("marketing", "objection")]
    (listed,) = (await site.ask(SUPPRESS, "all")).json["suppressions"]
    assert (listed["since"], listed["note"]) == ("2026-03-02T10:00:00Z", "by phone")
    lift = {"address": ANNA, "origin": "objection", "reason": "added by mistake"}
    told = await site.post(LIFT, lift | {"reason": "Anna called"}, "all")
    assert (told.status, told.json["error"]) == (400, "reason_wrong")
    lifted = await site.post(LIFT, lift, "all")
    assert [one["origin"] for one in lifted.json["lifted"]] == ["objection"]
    assert (await site.post(LIFT, lift, "all")).json["lifted"] == []
    shown = (await site.post(SHOW, {"address": ANNA}, "all")).json
    assert shown["suppressions"] == []
    assert [one["reason"] for one in shown["lifted"]] == ["added by mistake"]
    (lifted_by_others,) = (await site.post(SHOW, {"address": ANNA}, "shop")).json["lifted"]
    assert "reason" not in lifted_by_others


async def test_one_wrong_suppression_adds_none(site: Writes) -> None:
    for wrong, where in (
        ({"address": "no address"}, "suppressions[1]: address"),
        ({"address": ANNA, "since": "soon"}, "suppressions[1]: since"),
        ({"address": "@people.example", "origin": "bounce"}, "suppressions[1]: origin"),
        ({"address": f"hmac:00000000:{'0' * 32}:{'0' * 64}"}, "key"),
    ):
        answer = await site.suppress({"address": ANNA}, wrong)
        assert (answer.status, set(answer.json)) == (400, PROBLEM)
        assert answer.headers["content-type"] == "application/problem+json"
        assert where in answer.json["detail"]
    note = await site.suppress({"address": ANNA, "note": "Anna was cross on the phone"})
    assert (note.status, note.json["error"]) == (400, "reason_wrong")
    assert await site.known() == []
    many = await site.suppress(*[{"address": ANNA}] * 1_001)
    assert (many.status, many.json["error"]) == (413, "too_large")


async def test_a_suppression_for_an_unused_purpose_counts_for_all_marketing(site: Writes) -> None:
    answer = await site.suppress({"address": ANNA, "scope": "purpose:lotery"})
    assert answer.json["results"] == [{"result": "added", "scope": "marketing"}]


async def test_an_erasure_stops_marketing_and_no_suppression_starts_in_the_future(
    site: Writes,
) -> None:
    answer = await site.suppress({"address": ANNA, "origin": "erasure", "since": "2999-01-01"})
    assert answer.json["results"] == [{"result": "added", "scope": "marketing"}]
    (shown,) = (await site.post(SHOW, {"address": ANNA}, "all")).json["suppressions"]
    assert shown["since"] < "2999"


async def test_all_suppressions_are_listed_page_by_page(site: Writes) -> None:
    await site.suppress(*[{"address": f"a{n}@people.example"} for n in range(25)])
    found, after = [], ""
    for _ in range(9):
        page = (await site.ask(f"{SUPPRESS}?limit=10&after={after}", "all")).json
        found += [one["key"] for one in page["suppressions"]]
        after = page["next"]
        if after is None:
            break
    assert len(found) == len(set(found)) == 25
    for wrong in ("x", "AAAA", "%C3%A9", "gA"):
        answer = await site.ask(f"{SUPPRESS}?after={wrong}", "all")
        assert (answer.status, answer.json["error"]) == (400, "parameter_wrong")


async def test_a_consent_is_recorded_confirmed_and_withdrawn(site: Writes) -> None:
    asked = {"address": ANNA, "purpose": "offers", "brand": "shop", "wording": "Send me offers."}
    early = await site.post(RECORD, asked | {"confirm": True}, "all")
    assert (early.status, early.json["error"]) == (409, "not_confirmable")
    pending = await site.post(RECORD, asked | {"pending": True, "source": "direct"}, "all")
    assert pending.json["warnings"] == ["it allows no mail until the person confirms"]
    done = await site.post(RECORD, asked | {"confirm": True}, "all")
    assert done.json == {"recorded": True, "warnings": []}
    nobody = {"address": ANNA, "purpose": "offers", "brand": "nobody"}
    wrong = await site.post(WITHDRAW, nobody, "all")
    assert (wrong.status, wrong.json["error"]) == (400, "body_wrong")
    gone = await site.post(WITHDRAW, {"address": ANNA, "purpose": "offers"}, "all")
    assert gone.json["recorded"] is True
    contact = await site.store.contact(ANNA)
    assert contact is not None
    assert [(act.pending, act.withdrawal) for act in contact.acts] == [
        (True, False),
        (False, False),
        (False, True),
    ]


async def test_withdrawing_from_an_unused_purpose_stops_all_marketing(site: Writes) -> None:
    asked = {"address": ANNA, "purpose": "lotery"}
    told = (await site.post(WITHDRAW, asked, "all")).json
    assert told["warnings"] == ["no stream has the purpose: it counts as all marketing"]
    assert [scope for scope, _ in await site.known()] == ["marketing"]


async def test_a_dated_consent_counts_from_midnight_and_a_withdrawal_from_the_end_of_the_day(
    site: Writes,
) -> None:
    asked = {"address": ANNA, "purpose": "offers", "brand": "shop"}
    given = asked | {"method": "unticked_box", "given_at": "2026-03-01"}
    assert (await site.post(RECORD, given, "all")).status == 200
    assert (await site.post(WITHDRAW, asked | {"withdrawn_at": "2026-03-01"}, "all")).status == 200
    contact = await site.store.contact(ANNA)
    assert contact is not None
    assert [(act.withdrawal, act.at.day, act.at.hour) for act in contact.acts] == [
        (False, 1, 0),
        (True, 1, 23),
    ]


async def test_recording_a_consent_without_proof_warns(site: Writes) -> None:
    await site.suppress({"address": ANNA, "scope": "all", "origin": "complaint"})
    asked = {"address": ANNA, "purpose": "offers", "brand": "shop", "method": "unticked_box"}
    warnings = (await site.post(RECORD, asked, "all")).json["warnings"]
    assert any("source" in text for text in warnings)
    assert any("wording" in text for text in warnings)
    assert any("suppressed_complaint" in text for text in warnings)
    assert ANNA not in json.dumps(warnings)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"purpose": "lottery"}, "purpose_unknown"),
        ({"method": "telepathy"}, "body_wrong"),
        ({"brand": None}, "body_wrong"),
        ({"brand": "nobody"}, "body_wrong"),
        ({"client": "here"}, "body_wrong"),
        ({"pending": True, "confirm": True}, "body_wrong"),
        ({"given_at": "2999-01-01T00:00:00Z"}, "body_wrong"),
        ({"given_at": "0001-01-01T00:00:00Z"}, "body_wrong"),
        ({"given_at": "noon"}, "body_wrong"),
        ({"given_at": ""}, "body_wrong"),
        ({"client": ""}, "body_wrong"),
        ({"channels": []}, "body_wrong"),
    ],
)
async def test_a_malformed_consent_is_not_recorded(
    site: Writes, more: dict[str, Any], error: str
) -> None:
    asked = {"address": ANNA, "purpose": "offers", "brand": "shop", "method": "unticked_box"}
    answer = await site.post(RECORD, asked | more, "all")
    assert (answer.status, answer.json["error"]) == (400, error)
    assert await site.store.contact(ANNA) is None


async def test_a_contact_is_written_shown_and_erased(site: Writes) -> None:
    asked = {"address": ANNA, "audience": "consumer", "source": "direct", "brand": "shop"}
    made = await site.post(CONTACT, asked, "all")
    assert (made.status, made.json["result"]) == (200, "added")
    shown = await site.contact()
    assert shown.json["contact"]["audience"] == "consumer"
    assert shown.headers["etag"] == made.headers["etag"] == f'"{shown.json["version"]}"'
    assert (await site.post(CONTACT, asked, "all")).json["result"] == "unchanged"
    erased = await site.post(ERASE, {"address": ANNA}, "all")
    assert erased.json == {"erased": True, "reports": 0, "audit_rows": 0, "others": 0}
    assert (await site.contact()).status == 404
    assert await site.known() == [("marketing", "erasure")]


async def test_a_brand_describes_a_person_only_for_itself(site: Writes) -> None:
    await facts_of_both(site)
    asked = {"address": ANNA, "brand": "shop", "source": "direct", "audience": "professional"}
    made = await site.post(CONTACT, asked | {"occupations": ["miller"]}, "shop")
    assert made.status == 200, made.text
    found = await site.store.contact(ANNA)
    assert found is not None
    assert {(way.brand, way.audience, *way.occupations) for way in collections(found)} == {
        ("shop", "professional", "miller"),
        ("mill", "unknown", "baker"),
    }


async def test_an_upsert_does_not_bring_an_erased_person_back(site: Writes) -> None:
    await site.post(ERASE, {"address": ANNA}, "all")
    given = {"purpose": "offers", "given_at": "2026-03-01T10:00:00Z", "method": "unticked_box"}
    back = await site.post(CONTACT, {"address": ANNA, "brand": "shop", "consents": [given]}, "all")
    assert back.json == {"result": "erased"}
    assert await site.store.contact(ANNA) is None


async def test_an_update_that_would_overwrite_another_is_refused(site: Writes) -> None:
    made = await site.post(CONTACT, {"address": ANNA, "brand": "shop", "language": "fr"}, "all")
    there = await site.post(
        CONTACT, {"address": ANNA, "language": "de"}, "all", {"If-None-Match": "*"}
    )
    assert (there.status, there.json["error"]) == (412, "changed_meanwhile")
    known = {"If-Match": made.headers["etag"]}
    both = await asyncio.gather(
        site.post(CONTACT, {"address": ANNA, "language": "de"}, "all", known),
        site.post(CONTACT, {"address": ANNA, "language": "it"}, "all", known),
    )
    assert sorted(answer.status for answer in both) == [200, 412]
    now = both[0 if both[0].status == 200 else 1].json["version"]
    for tag in (f'W/"{now}"', f'"{now}-gzip"', f'"0", "{now}"'):  # as rewritten by proxies
        answer = await site.post(CONTACT, {"address": ANNA}, "all", {"If-Match": tag})
        assert (answer.status, answer.json.get("result")) == (200, "unchanged"), tag
    none = {"If-Match": "*"}
    assert (await site.post(CONTACT, {"address": ANNA}, "all", none)).status == 200
    assert (await site.post(CONTACT, {"address": "b@x.example"}, "all", none)).status == 412


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"address": "' + b"a" * 1_100_000]
)
async def test_hostile_bodies_are_problems(site: Writes, body: bytes) -> None:
    for path in (SUPPRESS, SHOW, LIFT, RECORD, WITHDRAW, CONTACT, GET, ERASE):
        answer = await site.post(path, body, "all")
        assert answer.status in (400, 413), path
        assert set(answer.json) == PROBLEM, path
        denied = await site.post(path, body, "none")
        assert (denied.status, denied.json["error"]) == (403, "not_permitted"), path


# A token of one brand, and facts of another.


async def facts_of_both(site: Writes) -> None:
    """Anna is known to both brands, Carl only to the mill."""
    await site.store.add_suppressions(
        [
            SuppressionEntry(ANNA, "brand:shop", Origin.UNSUBSCRIBE, T0, "link of the shop"),
            SuppressionEntry(ANNA, "brand:mill", Origin.OBJECTION, T0),
            SuppressionEntry(ANNA, "purpose:grain", Origin.COMPLAINT, T0),
            SuppressionEntry(ANNA, "purpose:news", Origin.UNSUBSCRIBE, T0, "link of the mill"),
        ]
    )
    act = ConsentAct("grain", T0, method="unticked_box", evidence=Evidence("Yes"), brand="mill")
    carl = Contact("carl@people.example", source=Source.DIRECT, brand="mill", acts=(act,))
    tagged = {"tags": frozenset({"millers"}), "occupations": frozenset({"baker"})}
    anna = Contact(
        ANNA, source=Source.DIRECT, brand="mill", language="fr",
        acts=(act, replace_act(act, "offers", "shop")), **tagged,
    )  # fmt: skip
    await site.store.put_contacts([anna, carl])


def replace_act(act: ConsentAct, purpose: str, brand: str) -> ConsentAct:
    return ConsentAct(purpose, act.at, method=act.method, evidence=act.evidence, brand=brand)


async def test_a_brand_sees_only_what_affects_its_mail(site: Writes) -> None:
    await facts_of_both(site)
    assert sorted(await site.known("shop")) == [
        ("brand:shop", "unsubscribe"),
        ("purpose:news", "unsubscribe"),
    ]
    assert len(await site.known("both")) == 4
    for who, count in (("shop", 2), ("all", 4)):
        listed = (await site.ask(SUPPRESS, who)).json["suppressions"]
        assert len(listed) == count
        assert any("note" in one for one in listed) is (who == "all")
        changes = (await site.ask("/v1/suppressions/changes", who)).json["changes"]
        assert len(changes) == count
        check = await site.post("/v1/suppressions/check", {"addresses": [ANNA]}, who)
        assert len(check.json["results"][0]["suppressions"]) == count
    asked = {"addresses": [ANNA], "brand": "mill"}
    answer = await site.post("/v1/suppressions/check", asked, "shop")
    assert (answer.status, answer.json["error"]) == (403, "not_of_your_brand")


async def test_a_brand_sees_only_its_own_part_of_a_contact(site: Writes) -> None:
    await facts_of_both(site)
    shown = (await site.contact("shop")).json["contact"]
    assert [one["purpose"] for one in shown["consents"]] == ["offers"]
    text = json.dumps(shown)
    assert not [word for word in ("mill", "grain", "baker", "direct", "fr") if f'"{word}' in text]
    assert (await site.contact("shop", "carl@people.example")).status == 404
    nobody = await site.contact("shop", "nobody@people.example")
    assert nobody.json == (await site.contact("shop", "carl@people.example")).json
    before = (await site.contact("shop")).headers["etag"]
    await site.post(WITHDRAW, {"address": ANNA, "purpose": "grain", "brand": "mill"}, "all")
    assert (await site.contact("shop")).headers["etag"] == before
    made = await site.post(CONTACT, {"address": "carl@people.example", "source": "direct"}, "shop",
                           {"If-None-Match": "*"})  # fmt: skip
    assert made.json["result"] == "added"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (SUPPRESS, {"suppressions": [{"address": ANNA}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "scope": "marketing"}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "scope": "brand:mill"}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "scope": "purpose:grain"}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "scope": "purpose:news"}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "scope": "purpose:unknown"}]}),
        (SUPPRESS, {"suppressions": [{"address": ANNA, "origin": "erasure"}]}),
        (LIFT, {"address": ANNA, "any_origin": True, "reason": "added by mistake"}),
        (LIFT, {"address": ANNA, "any_origin": True, "reason": "added by mistake",
                "scope": "brand:mill"}),
        (LIFT, {"address": ANNA, "origin": "unsubscribe", "reason": "added by mistake",
                "scope": "purpose:news"}),
        (RECORD, {"address": ANNA, "purpose": "grain", "brand": "mill", "method": "signed_form"}),
        (WITHDRAW, {"address": ANNA, "purpose": "grain", "brand": "mill"}),
        (WITHDRAW, {"address": ANNA, "purpose": "unknown"}),
        (CONTACT, {"address": ANNA, "brand": "mill", "source": "direct"}),
        (CONTACT, {"address": ANNA, "tags": ["restricted"]}),
        (CONTACT, {"address": ANNA, "tags": []}),
        (CONTACT, {"address": ANNA, "profiling_objected_at": "2026-03-01T10:00:00Z"}),
        (CONTACT, {"address": ANNA, "collections": [{"brand": "mill", "source": "direct"}]}),
        (CONTACT, {"address": ANNA, "consents": [
            {"purpose": "grain", "withdrawn_at": "2026-03-01T10:00:00Z", "brand": "mill"}]}),
        (CONTACT, {"address": ANNA, "consents": [
            {"purpose": "grain", "withdrawn_at": "2026-03-01T10:00:00Z", "brand": "other"}]}),
        (CONTACT, {"address": ANNA, "consents": [
            {"purpose": "unknown", "withdrawn_at": "2026-03-01T10:00:00Z"}]}),
        (CONTACT, {"address": ANNA, "purchases": [
            {"product": "x", "at": "2026-03-01T10:00:00Z", "brand": "mill"}]}),
        (CONTACT, {"address": ANNA, "preferences": [
            {"purpose": "grain", "frequency": "weekly", "at": "2026-03-01T10:00:00Z",
             "brand": "mill"}]}),
        (ERASE, {"address": ANNA}),
    ],
)  # fmt: skip
async def test_a_brand_changes_nothing_of_another(
    site: Writes, path: str, asked: dict[str, Any]
) -> None:
    await facts_of_both(site)
    contact, stood = await site.store.contact(ANNA), await site.store.suppressions(ANNA)
    answer = await site.post(path, asked, "shop")
    assert answer.status in (400, 403), answer.text
    assert answer.json["error"] in ("not_of_your_brand", "purpose_unknown", "body_wrong")
    assert await site.store.contact(ANNA) == contact
    assert await site.store.suppressions(ANNA) == stood


async def test_a_brand_can_change_its_own_facts(site: Writes) -> None:
    await facts_of_both(site)
    mill = await site.store.contact("carl@people.example")
    own = {"address": ANNA, "scope": "purpose:offers", "origin": "unsubscribe"}
    assert (await site.suppress(own, who="shop")).json["results"][0]["result"] == "added"
    lift = {"address": ANNA, "origin": "unsubscribe", "scope": "brand:shop",
            "reason": "the person asked"}  # fmt: skip
    lifted = (await site.post(LIFT, lift, "shop")).json
    assert [one["scope"] for one in lifted["lifted"]] == ["brand:shop"]
    assert {one["scope"] for one in lifted["left"]} == {"purpose:offers", "purpose:news"}
    consent = {"address": ANNA, "purpose": "news", "method": "signed_form", "wording": "Yes."}
    assert (await site.post(RECORD, consent, "shop")).json["recorded"] is True
    assert (await site.post(WITHDRAW, {"address": ANNA, "purpose": "news"}, "shop")).status == 200
    contact = await site.store.contact(ANNA)
    assert contact is not None
    assert {act.brand for act in contact.acts if act.purpose == "news"} == {"shop"}
    assert await site.store.contact("carl@people.example") == mill


async def test_no_address_is_logged(site: Writes) -> None:
    with structlog.testing.capture_logs() as logs:
        await site.suppress({"address": ANNA})
        await site.post(CONTACT, {"address": ANNA, "brand": "shop"}, "all")
        await site.post(ERASE, {"address": ANNA}, "all")
        await site.post(CONTACT, {"address": ANNA, "x": 1}, "all")
    assert [one["operation"] for one in logs if one["event"] == "api_write"] == [
        "suppress",
        "upsert_contact",
        "erase_contact",
    ]
    assert "anna" not in str(logs)


async def test_other_requests_are_served_while_a_write_waits(site: Writes) -> None:
    """The write waits for another process."""
    path = Path(site.store.folder.name) / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(site.suppress({"address": ANNA}))
        await asyncio.sleep(0.2)
        for _ in range(3):
            assert (await site.post(SHOW, {"address": ANNA}, "all")).status == 200
        assert not waiting.done()
        other.execute("COMMIT")
    assert (await waiting).status == 200


async def test_people_recorded_under_an_address_now_refused_keep_their_rights(
    site: Writes,
) -> None:
    refused = '"(x)anna"@people.example'
    await site.store.put_contacts([Contact(refused, source=Source.DIRECT)])
    assert (await site.contact(address=refused)).json["contact"]["address"] == refused
    added = await site.suppress({"address": refused, "origin": "manual"})
    assert (added.status, "write the address without" in added.text) == (400, True)
    withdrawal = {"address": refused, "purpose": "offers"}
    assert (await site.post(WITHDRAW, withdrawal, "all")).status == 200
    search = {"recipient": refused}
    assert (await site.post("/v1/decisions/search", search, "all")).json["decisions"] == []
    assert (await site.post(ERASE, {"address": refused}, "all")).json["erased"] is True
    assert ("marketing", "erasure") in await site.known(address=refused)
    lift = {"address": refused, "any_origin": True, "reason": "the person asked"}
    assert (await site.post(LIFT, lift, "all")).status == 200
