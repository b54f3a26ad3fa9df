"""An import may not lift a suppression, invent consent or let older facts win."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Action, Lookups, Origin, Stream, StreamClass, Transaction
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.store.exchange import contact_ndjson
from smtpproxy.store.exchange.lines import Line, Lines, Read
from smtpproxy.store.exchange.suppression_file import read_csv
from smtpproxy.store.exchange.suppression_record import Defaults
from smtpproxy.store.records import SuppressionEntry
from tests.kit.soak import times
from tests.kit.store import TrialStore

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
OFFERS = Stream("offers", StreamClass.MARKETING, purpose="offers")
ANNA = "anna@people.example"
DAYS = st.integers(1, 400)


def consent(days: int, **fields: str) -> str:
    told = "".join(f',"{name}":{value}' for name, value in fields.items())
    at = (NOW - days * DAY).isoformat()
    return f'{{"purpose":"offers","given_at":"{at}"{told}}}'


PROVEN = {"method": '"unticked_box"', "evidence": '{"wording":"form 3"}'}


def withdrawal(days: int) -> str:
    return f'{{"purpose":"offers","withdrawn_at":"{(NOW - days * DAY).isoformat()}"}}'


async def import_contact(store: TrialStore, *consents: str) -> None:
    text = f'{{"address":"{ANNA}","source":"direct","consents":[{",".join(consents)}]}}'
    contents = contact_ndjson.read_ndjson(Lines([Line(1, text.encode())]), NOW)
    await store.put_contacts([one.value for one in contents.items if isinstance(one, Read)])


async def import_suppression(store: TrialStore, days: int, origin: Origin) -> None:
    since = (NOW - days * DAY).isoformat()
    text = f"address,scope,origin,since,note\n{ANNA},all,{origin},{since},\n"
    lines = (Line(n, line.encode()) for n, line in enumerate(text.splitlines(), 1))
    contents = read_csv(Lines(lines), Defaults(NOW))
    await store.add_suppressions([one.value for one in contents.items if isinstance(one, Read)])


async def mailed(store: TrialStore) -> bool:
    facts = await store.facts(Lookups((ANNA,)))
    asked = Transaction((OFFERS,), (ANNA,))
    return judge(asked, facts, builtin("fr"), NOW).recipients[0].action is Action.ALLOW


async def standing(store: TrialStore) -> set[tuple[str, str, datetime]]:
    return {(one.scope, one.origin, one.since) for one in await store.suppressions(ANNA)}


@settings(max_examples=times(25, 1_000), deadline=None)
@given(
    before=st.lists(st.tuples(st.sampled_from(Origin), DAYS), max_size=4),
    imported=st.lists(st.tuples(st.sampled_from(Origin), DAYS), max_size=4),
    agreed=st.lists(DAYS, max_size=3),
)
async def test_no_import_lifts_a_suppression(
    before: list[tuple[Origin, int]], imported: list[tuple[Origin, int]], agreed: list[int]
) -> None:
    """Invariant: every suppression is still there after an import, dated no earlier."""
    async with TrialStore() as store:
        for origin, days in before:
            entry = SuppressionEntry(ANNA, "all", origin, NOW - days * DAY)
            await store.add_suppressions([entry])
        stood = await standing(store)
        await import_contact(store, *[consent(days, **PROVEN) for days in agreed])
        for origin, days in imported:
            await import_suppression(store, days, origin)
        now = {(scope, origin): since for scope, origin, since in await standing(store)}
        assert all(now[scope, origin] >= since for scope, origin, since in stood)


async def test_a_proven_consent_allows_mail() -> None:
    """Otherwise the next test could not fail."""
    async with TrialStore() as store:
        await import_contact(store, consent(1, **PROVEN))
        assert await mailed(store)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": '"unticked_box"'},
        {"evidence": '{"wording":"form 3"}'},
        {"method": '"unticked_box"', "evidence": '{"ip":"192.0.2.1"}'},
        {"method": '"unticked_box"', "evidence": '{"wording":""}'},
        {"method": '"implied"', "evidence": '{"wording":"form 3"}'},
    ],
)
async def test_consent_without_evidence_is_stored_and_allows_nothing(
    fields: dict[str, str],
) -> None:
    async with TrialStore() as store:
        await import_contact(store, consent(1, **fields))
        contact = await store.contact(ANNA)
        assert contact is not None
        (act,) = contact.acts
        assert act.method == (fields["method"].strip('"') if "method" in fields else None)
        assert ("form 3" in str(fields)) is (act.evidence.wording == "form 3")
        assert not await mailed(store)


@settings(max_examples=times(25, 1_000), deadline=None)
@given(acts=st.lists(st.tuples(st.booleans(), st.integers(1, 5)), min_size=1, max_size=6))
async def test_the_newest_act_counts_in_whatever_order_files_are_imported(
    acts: list[tuple[bool, int]],
) -> None:
    """Invariant: mail passes exactly when the newest act is a consent; at the same
    moment, the withdrawal counts."""
    async with TrialStore() as store:
        for agreed, days in acts:
            await import_contact(store, consent(days, **PROVEN) if agreed else withdrawal(days))
        newest = min(days for _, days in acts)
        assert await mailed(store) is all(agreed for agreed, days in acts if days == newest)
