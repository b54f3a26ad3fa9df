"""The API over real HTTP: who may ask, the answers, and the errors for wrong requests."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import get_args
from urllib.parse import urljoin

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Origin
from smtpproxy.settings.mail import Right
from smtpproxy.store.propagation import DeadLetter, WebhookState
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.web.api import Gate
from smtpproxy.web.api.description import document
from smtpproxy.web.rates import Bucket
from tests.kit.relay import parse_metrics
from tests.kit.traffic import settings
from tests.web.serving import Answer, Site, api_over, serving, token

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
CHANGES = "/v1/suppressions/changes"
CHECK = "/v1/suppressions/check"


RIGHTS = get_args(Right)
TOKENS = (
    token("crm", "changes"),
    token("shop", "check"),
    token("often", "changes", per_minute=2),
    token("both", *RIGHTS, per_minute=100_000),
)


class Served(Site):
    """The application on a port, with a store."""

    async def check(self, asked: object, who: str | None = "shop") -> Answer:
        return await self.post(CHECK, asked, who)

    async def add(
        self, *names: str, scope: str = "marketing", origin: Origin = Origin.UNSUBSCRIBE
    ) -> None:
        await self.store.add_suppressions(
            [SuppressionEntry(f"{name}@people.example", scope, origin, T0) for name in names]
        )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(Served, replace(settings(), tokens=TOKENS)) as site:
        yield site


async def test_changes_are_read_page_by_page(served: Served) -> None:
    await served.add("a", "b", "c")
    keys = [key async for key, _ in served.store.export_suppressions()]
    first = await served.ask(f"{CHANGES}?since=0&limit=2")
    assert first.status == 200
    assert first.headers["cache-control"] == "no-store"
    assert (first.json["next"], first.json["more"]) == (2, True)
    rest = await served.ask(f"{CHANGES}?since=2&limit=2")
    assert (rest.json["next"], rest.json["more"]) == (3, False)
    told = [*first.json["changes"], *rest.json["changes"]]
    assert [change["seq"] for change in told] == [1, 2, 3]
    assert sorted(change["key"] for change in told) == sorted(keys)
    at = told[0].pop("at")
    assert datetime.now(UTC) - datetime.fromisoformat(at) < timedelta(minutes=1)
    assert told[0] == {
        "seq": 1,
        "action": "added",
        "key": told[0]["key"],
        "scope": "marketing",
        "origin": "unsubscribe",
        "since": "2026-03-01T10:00:00Z",
    }
    end = await served.ask(f"{CHANGES}?since=3")
    assert end.json == {"changes": [], "next": 3, "more": False}


async def test_a_caller_needs_a_known_token_with_the_right(served: Served) -> None:
    for who, error in ((None, "token_missing"), ("wrong", "token_unknown"), ("", "token_unknown")):
        answer = await served.ask(CHANGES, who)
        assert (answer.status, answer.json["error"]) == (401, error)
        assert answer.headers["www-authenticate"].startswith("Bearer realm=")
    answer = await served.ask(CHANGES, "shop")
    assert (answer.status, answer.json["error"]) == (403, "not_permitted")
    assert 'the right "changes"' in answer.json["detail"]
    assert (await served.check({"addresses": []}, "crm")).status == 403
    shown = parse_metrics((await served.ask("/metrics", None)).text)
    row = 'smtpproxy_api_requests_total{code_class="4xx",token="%s"}'
    assert shown[row % "unknown"] == 3
    assert shown[row % "shop"] == 1


async def test_a_token_over_its_rate_is_told_when_to_retry(served: Served) -> None:
    asked = [await served.ask(CHANGES, "often") for _ in range(3)]
    assert [answer.status for answer in asked] == [200, 200, 429]
    assert {answer.headers["ratelimit-policy"] for answer in asked} == {'"token";q=2;w=60'}
    left = [answer.headers["ratelimit"].partition(";t=")[0] for answer in asked]
    assert left == ['"token";r=1', '"token";r=0', '"token";r=0']
    answer = await served.ask(CHANGES, "often")
    assert 1 <= int(answer.headers["retry-after"]) <= 31
    assert answer.headers["ratelimit"] == f'"token";r=0;t={answer.headers["retry-after"]}'
    assert (await served.ask(CHANGES)).status == 200
    assert "ratelimit" not in (await served.ask(CHANGES, "wrong")).headers


@pytest.mark.parametrize(
    "query",
    ["since=-1", "since=x", "limit=0", "limit=10001", "wait=61", "since=", "since=1e3", "from=1",
     f"since={'9' * 4000}"],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(served: Served, query: str) -> None:
    answer = await served.ask(f"{CHANGES}?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.json["detail"]


async def test_trimmed_changes_are_gone_and_the_answer_says_how_to_start_over(
    served: Served,
) -> None:
    await served.add("a", "b", "c")
    await served.store.trim_changes(datetime.now(UTC) + timedelta(days=1))
    answer = await served.ask(f"{CHANGES}?since=1")
    assert (answer.status, answer.json["error"], answer.json["next"]) == (410, "changes_gone", 3)
    assert "suppress export" in answer.json["detail"]
    assert (await served.ask(f"{CHANGES}?since=3")).json["changes"] == []
    assert (await served.ask(f"{CHANGES}?since=9")).status == 410


async def test_a_long_poll_answers_as_soon_as_there_is_a_change(served: Served) -> None:
    polls = [asyncio.create_task(served.ask(f"{CHANGES}?since=0&wait=60")) for _ in range(3)]
    await asyncio.sleep(0.2)
    assert not any(poll.done() for poll in polls)
    await served.add("a")
    for poll in polls:
        answer = await asyncio.wait_for(poll, 30)
        assert [change["seq"] for change in answer.json["changes"]] == [1]
    empty = await served.ask(f"{CHANGES}?since=1&wait=1")
    assert (empty.status, empty.json["changes"]) == (200, [])


async def test_a_long_poll_does_not_delay_shutdown(served: Served) -> None:
    poll = asyncio.create_task(served.ask(f"{CHANGES}?since=0&wait=60"))
    await asyncio.sleep(0.3)
    served.stop.set()
    assert (await asyncio.wait_for(poll, 30)).status == 200


async def test_addresses_can_be_checked(served: Served) -> None:
    await served.add("anna", scope="purpose:offers")
    await served.add("carl", scope="all", origin=Origin.COMPLAINT)
    asked = ["Anna@People.example", "carl+tag@people.example", "new@people.example", "no address"]
    answer = await served.check({"addresses": asked})
    assert answer.status == 200
    anna, carl, new, wrong = answer.json["results"]
    more = ["x@wild.example", "anna%people.example@localhost", "x@\u200bpeople.example"]
    await served.store.add_suppressions(
        [SuppressionEntry("@wild.example", "all", Origin.MANUAL, T0)]
    )
    domain, routed, unseen = (await served.check({"addresses": more})).json["results"]
    assert domain["suppressions"][0]["domain"] == "@wild.example"
    assert routed["suppressions"][0]["read_as"] == "anna@people.example"
    assert unseen["suppressed"] is None
    assert anna == {
        "address": "Anna@People.example",
        "suppressed": True,
        "since": "2026-03-01T10:00:00Z",
        "suppressions": [
            {"scope": "purpose:offers", "origin": "unsubscribe", "since": "2026-03-01T10:00:00Z"}
        ],
    }
    assert carl["suppressed"] is True
    assert (new["suppressed"], new["since"], new["suppressions"]) == (False, None, [])
    assert (wrong["suppressed"], wrong["error"]) == (None, "not a mail address")


@pytest.mark.parametrize(
    ("scope", "suppressed"),
    [
        ("all", ["carl"]),
        ("marketing", ["carl", "dora"]),
        ("purpose:offers", ["anna", "carl", "dora"]),
        ("purpose:news", ["carl", "dora"]),
        (None, ["anna", "carl", "dora"]),
    ],
)
async def test_the_scope_of_the_mailing_decides_what_counts(
    served: Served, scope: str | None, suppressed: list[str]
) -> None:
    await served.add("anna", scope="purpose:offers")
    await served.add("carl", scope="all")
    await served.add("dora", scope="marketing")
    names = ["anna", "carl", "dora", "emil"]
    asked = {"addresses": [f"{name}@people.example" for name in names], "scope": scope}
    results = (await served.check(asked)).json["results"]
    found = [name for name, one in zip(names, results, strict=True) if one["suppressed"]]
    assert found == suppressed


@pytest.mark.parametrize(
    ("asked", "suppressed"),
    [
        ({"scope": "all"}, []),
        ({"scope": "marketing"}, ["anna", "carl"]),
        ({"scope": "marketing", "brand": "shop"}, ["anna"]),
        ({"scope": "brand:shop"}, ["anna"]),
        ({"scope": "purpose:offers"}, ["anna", "carl", "dora"]),
        ({"scope": "purpose:offers", "brand": "mill"}, ["carl", "dora"]),
        ({"brand": "mill"}, ["carl", "dora"]),
        ({"brand": "other"}, ["dora"]),
    ],
)
async def test_a_brands_suppression_counts_where_the_mailing_may_be_that_brands(
    served: Served, asked: dict[str, str], suppressed: list[str]
) -> None:
    await served.add("anna", scope="brand:shop")
    await served.add("carl", scope="brand:mill")
    await served.add("dora", scope="purpose:offers")
    names = ["anna", "carl", "dora", "emil"]
    addresses = [f"{name}@people.example" for name in names]
    results = (await served.check({"addresses": addresses, **asked})).json["results"]
    found = [name for name, one in zip(names, results, strict=True) if one["suppressed"]]
    assert found == suppressed


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[]", 400, "object"),
        (b"{}", 400, "addresses"),
        (b'{"addresses": [1]}', 400, "str"),
        (b'{"addresses": [], "scop": "all"}', 400, "scop"),
        (b'{"addresses": [], "scope": "offers"}', 400, "purpose:NAME"),
        (b'{"addresses": [], "scope": "brand:"}', 400, "brand:NAME"),
        (b'{"addresses": [], "scope": "brand:a", "brand": "b"}', 400, "different brands"),
        (json.dumps({"addresses": ["a@b.example"] * 1001}).encode(), 413, "1000"),
        (b'{"addresses": ["' + b"a" * 1_100_000 + b'"]}', 413, "octets"),
    ],
)
async def test_a_wrong_body_is_answered_with_what_is_wrong(
    served: Served, body: bytes, status: int, said: str
) -> None:
    answer = await served.check(body)
    assert answer.status == status
    assert said in answer.json["detail"]


async def test_a_store_that_does_not_answer_gives_503(served: Served) -> None:
    served.store.fail_with = "locked"
    for answer in (
        await served.ask(CHANGES),
        await served.ask(f"{CHANGES}?wait=5"),
        await served.check({"addresses": ["a@b.example"]}),
    ):
        assert (answer.status, answer.json["error"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert "locked" not in answer.text
    shown = parse_metrics((await served.ask("/metrics", None)).text)
    assert shown['smtpproxy_web_failures_total{page="api"}'] == 3


async def test_other_methods_are_refused(served: Served) -> None:
    assert (await served.ask(CHANGES, method="DELETE")).status == 405
    assert (await served.ask(CHECK, "shop")).status == 405


async def test_the_description_matches_the_api(served: Served) -> None:
    described = (await served.ask("/v1/openapi.json", None)).json
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            answer = await served.ask(path, None, method=method.upper())
            assert (answer.status, answer.json["error"]) == (401, "token_missing")
    schemas = described["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described))
    assert set(references) == set(schemas)
    bounds = {
        each["name"]: each["schema"] for each in described["paths"][CHANGES]["get"]["parameters"]
    }
    assert bounds["limit"] == {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1_000}
    for methods in described["paths"].values():
        for parameter in (
            one for method in methods.values() for one in method.get("parameters", ())
        ):
            assert "null" not in str(parameter["schema"])  # a URL cannot express null
    request = schemas["CheckRequest"]
    assert (request["required"], request["additionalProperties"]) == (["addresses"], False)


@pytest.mark.parametrize(
    "path", [CHECK, "/v1/decisions/1", "/v1/imports/1/cancel", "/v1/", "/v1/a%2Fb/"]
)
async def test_links_lead_to_the_api_below_any_path_of_a_proxy(served: Served, path: str) -> None:
    proxy = "https://mail.example/relay"
    problem = (await served.ask(path, None)).json
    assert urljoin(proxy + path, problem["type"]) == f"{proxy}/v1/docs#{problem['error']}"
    described = (await served.ask("/v1/openapi.json", None)).json
    assert urljoin(f"{proxy}/v1/openapi.json", described["servers"][0]["url"]) == f"{proxy}/"


async def test_exactly_the_existing_routes_are_described(served: Served) -> None:
    api = api_over(served.store, settings())
    own = {"/v1/openapi.json", "/v1/docs"}
    routes = {(route.path, method.lower()) for route in api.routes if route.path not in own
              for method in (route.methods or ()) if method != "HEAD"}  # fmt: skip
    assert "_document" not in vars(api)  # made on demand, as it takes two megabytes
    described = document([operation for operation, _ in api.operations], "0")
    assert routes == {
        (path, method) for path, methods in described["paths"].items() for method in methods
    }
    fields = [
        (path, parameter["name"])
        for path, methods in described["paths"].items()
        for method in methods.values()
        for parameter in method.get("parameters", ())
        if parameter["in"] == "header"
    ]
    assert ("/v1/imports", "Idempotency-Key") in fields
    assert (CHECK, "Idempotency-Key") not in fields
    assert [path for path, name in fields if name == "If-Match"] == ["/v1/contacts"]


async def test_the_documentation_page_loads_nothing_from_elsewhere(served: Served) -> None:
    answer = await served.ask("/v1/docs", None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert CHANGES in answer.text
    assert CHECK in answer.text
    assert not re.search(r"<script|<link|<img|(?:src|href)=\"(?!#|openapi\.json)", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_the_lag_of_webhooks_is_shown_whichever_process_delivers(served: Served) -> None:
    await served.add("a")
    dead = DeadLetter(
        "dead", "msg_1", b"{}", 1, datetime.now(UTC) - timedelta(hours=3), T0, 1, "HTTP 500"
    )
    await served.store.put_webhook_states([WebhookState("dead", 1, disabled_at=T0)], [dead])
    await served.store.put_webhook_states([WebhookState("even", 1)])
    shown = parse_metrics((await served.ask("/metrics", None)).text)
    assert 3 * 3600 <= shown['smtpproxy_webhook_lag_seconds{webhook="dead"}'] < 3 * 3600 + 60
    assert shown['smtpproxy_webhook_dead_letters{webhook="dead"}'] == 1
    assert shown['smtpproxy_webhook_disabled{webhook="dead"}'] == 1
    assert shown['smtpproxy_webhook_lag_seconds{webhook="even"}'] == 0
    assert shown['smtpproxy_webhook_deadline_seconds{webhook="crm"}'] == 48 * 3600


def test_a_rate_bucket_refills_over_time() -> None:
    bucket = Bucket(60)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    assert bucket.take(1e9) == 0.0
    assert [bucket.take(1e9) for _ in range(59)] == [0.0] * 59
    assert bucket.take(1e9) > 0


def test_only_the_bearer_scheme_with_the_whole_token_is_accepted() -> None:
    gate = Gate(TOKENS, lambda: 0.0)
    assert gate.who("Bearer crm") == TOKENS[0]
    assert gate.who("bearer  crm ") == TOKENS[0]
    for wrong in (None, "", "crm", "Basic crm", "Bearer", "Bearer cr", "Bearer crmm", "Bearer é"):
        assert gate.who(wrong) is None
