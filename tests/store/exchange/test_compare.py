"""A dry run of an import, on both backends, foretells what the import does."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import ConsentAct, Contact, Origin, Stream, StreamClass
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.exchange import contact_ndjson
from smtpproxy.store.exchange.compare import (
    SAMPLES,
    Comparison,
    ContactComparison,
    SuppressionComparison,
    compare,
)
from smtpproxy.store.exchange.lines import Line, Lines
from smtpproxy.store.exchange.suppression_file import read_csv
from smtpproxy.store.exchange.suppression_record import Defaults
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql.store import Store

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
OFFERS = Stream("offers", StreamClass.MARKETING, purpose="offers")
ANNA = "anna@people.example"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(StoreSettings(url=f"sqlite://{tmp_path}/x.db"), tmp_path)
    try:
        yield opened
    finally:
        await opened.close()


def lines(text: str) -> Lines:
    return Lines(Line(n, line.encode()) for n, line in enumerate(text.splitlines(), 1))


async def suppressions(store: Store, rows: str) -> Comparison:
    contents = read_csv(lines("address,scope,origin,since,note\n" + rows), Defaults(NOW))
    return await compare(contents, SuppressionComparison(store), lambda _: None)


async def contacts(store: Store, rows: str, stream: Stream = OFFERS) -> Comparison:
    contents = contact_ndjson.read_ndjson(lines(rows), NOW)
    comparison = ContactComparison(store, [(stream, builtin("fr"))], NOW)
    return await compare(contents, comparison, lambda _: None)


def consent(at: datetime, wording: str | None = "form 3", method: str = "unticked_box") -> str:
    told = f'"{wording}"' if wording else "null"
    return (
        f'{{"address":"{ANNA}","source":"direct","consents":[{{"purpose":"offers",'
        f'"method":"{method}","given_at":"{at.isoformat()}","evidence":{{"wording":{told}}}}}]}}'
    )


async def test_suppressions_are_new_changed_or_ignored(store: Store) -> None:
    entry = SuppressionEntry(ANNA, "all", Origin.UNSUBSCRIBE, NOW - DAY)
    await store.add_suppressions([entry])
    rows = (
        f"{ANNA},all,unsubscribe,{(NOW - 2 * DAY).isoformat()},\n"
        f"{ANNA},all,unsubscribe,{NOW.isoformat()},\n"
        f"{ANNA},all,unsubscribe,{NOW.isoformat()},\n"
        f"{ANNA},marketing,unsubscribe,{NOW.isoformat()},\n"
        f"{ANNA},all,complaint,{NOW.isoformat()},\n"
        "bert@people.example,all,unsubscribe,2026-01-01,\n"
        "bert@people.example,all,whim,2026-01-01,\n"
    )
    done = await suppressions(store, rows)
    assert done.counts == {
        "new": 3, "changed": 1, "ignored": 2, "resurrected": 0, "rejected": 1,
    }  # fmt: skip
    assert [found.since for found in await store.suppressions(ANNA)] == [NOW - DAY]
    (changed,) = [one for one in done.samples if one.kind == "changed"]
    assert (changed.line, changed.address) == (3, ANNA)
    assert "before it was 2026-05-31T00:00:00Z" in changed.what


async def test_a_dry_run_foretells_what_the_import_does(store: Store) -> None:
    await store.add_suppressions([SuppressionEntry(ANNA, "all", Origin.MANUAL, NOW)])
    rows = f"{ANNA},all,manual,2027-01-01,\nbert@people.example,all,manual,2026-01-01,\n"
    done = await suppressions(store, rows)
    contents = read_csv(lines("address,scope,origin,since,note\n" + rows), Defaults(NOW))
    entries = [item.value for item in contents.items if hasattr(item, "value")]
    result = await store.add_suppressions(entries)
    assert (done.counts["new"], done.counts["changed"]) == (result.added, result.changed)


async def test_keys_from_an_export_are_compared_too(store: Store) -> None:
    await store.add_suppressions([SuppressionEntry(ANNA, "all", Origin.MANUAL, NOW)])
    rows = ""
    async for key, found in store.export_suppressions():
        rows += f"{key},{found.scope},{found.origin},{found.since.isoformat()},\n"
    other = f"hmac:00000000:{'0' * 32}:{'0' * 64},all,manual,2026-01-01,\n"
    done = await suppressions(store, rows + other)
    assert (done.counts["ignored"], done.counts["rejected"]) == (1, 1)


async def test_only_a_few_samples_are_given(store: Store) -> None:
    rows = "".join(f"u{n}@people.example,all,manual,2026-01-01,\n" for n in range(20))
    done = await suppressions(store, rows)
    assert done.counts["new"] == 20
    assert len(done.samples) == SAMPLES


async def test_contacts_are_new_changed_or_ignored(store: Store) -> None:
    rows = f'{{"address":"{ANNA}","tags":["vip"]}}\n{{"address":"{ANNA}","tags":["vip"]}}\nx\n'
    done = await contacts(store, rows)
    assert (done.counts["new"], done.counts["ignored"], done.counts["rejected"]) == (1, 1, 1)
    assert await store.contact(ANNA) is None
    contents = contact_ndjson.read_ndjson(lines(rows), NOW - DAY)
    await store.put_contacts([item.value for item in contents.items if hasattr(item, "value")][:1])
    done = await contacts(store, f'{{"address":"{ANNA}","tags":["gone"],"audience":"consumer"}}')
    assert done.counts["changed"] == 1
    assert done.samples[0].what == "audience, tags"


async def test_contacts_frozen_by_an_objection_to_profiling_are_reported(store: Store) -> None:
    await store.put_contacts([Contact(ANNA, profiling_objected_at=NOW - DAY)])
    line = f'{{"address":"{ANNA}","tags":["gambler"],"audience":"%s"}}'
    done = await contacts(store, f"{line % 'consumer'}\n{line % 'consumer'}")
    assert [(one.kind, one.what) for one in done.samples] == [
        ("changed", "audience; tags as it was: the person objected to profiling"),
        ("ignored", "nothing new; tags as it was: the person objected to profiling"),
    ]


class TestResurrected:
    """People whom mail must not reach now, and who would be mailed after the import."""

    async def test_a_newer_proven_consent_outweighs_an_unsubscribe(self, store: Store) -> None:
        await store.add_suppressions(
            [SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, NOW - 2 * DAY)]
        )
        done = await contacts(store, consent(NOW - DAY))
        assert (done.counts["new"], done.counts["resurrected"]) == (1, 1)
        (found,) = [one for one in done.samples if one.kind == "resurrected"]
        assert found.what.startswith("offers: refused as suppressed_unsubscribe, would be")

    async def test_an_older_consent_does_not(self, store: Store) -> None:
        await store.add_suppressions(
            [SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, NOW - 2 * DAY)]
        )
        assert (await contacts(store, consent(NOW - 3 * DAY))).counts["resurrected"] == 0

    @pytest.mark.parametrize("origin", [o for o in Origin if o is not Origin.UNSUBSCRIBE])
    async def test_other_suppressions_hold(self, store: Store, origin: Origin) -> None:
        await store.add_suppressions([SuppressionEntry(ANNA, "all", origin, NOW - 2 * DAY)])
        assert (await contacts(store, consent(NOW - DAY))).counts["resurrected"] == 0

    @pytest.mark.parametrize(
        ("wording", "method"), [(None, "unticked_box"), ("form", "preticked_box")]
    )
    async def test_an_unproven_consent_does_not(
        self, store: Store, wording: str | None, method: str
    ) -> None:
        await store.add_suppressions(
            [SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, NOW - 2 * DAY)]
        )
        done = await contacts(store, consent(NOW - DAY, wording, method))
        assert done.counts["resurrected"] == 0

    async def test_a_newer_consent_outweighs_a_withdrawal(self, store: Store) -> None:
        text = (
            f'{{"address":"{ANNA}","source":"direct","consents":[{{"purpose":"offers",'
            f'"withdrawn_at":"{(NOW - 2 * DAY).isoformat()}"}}]}}'
        )
        contents = contact_ndjson.read_ndjson(lines(text), NOW - DAY)
        await store.put_contacts([item.value for item in contents.items if hasattr(item, "value")])
        assert (await contacts(store, consent(NOW - 3 * DAY))).counts["resurrected"] == 0
        done = await contacts(store, consent(NOW - DAY))
        assert done.counts["resurrected"] == 1
        assert "offers: refused as consent_withdrawn" in done.samples[-1].what

    @pytest.mark.parametrize("held", [{"paused": True}, {"max_snapshot_age": 60.0}])
    async def test_a_temporary_hold_on_the_stream_hides_nobody(
        self, store: Store, held: dict[str, Any]
    ) -> None:
        await store.add_suppressions(
            [SuppressionEntry(ANNA, "marketing", Origin.UNSUBSCRIBE, NOW - 2 * DAY)]
        )
        done = await contacts(store, consent(NOW - DAY), replace(OFFERS, **held))
        assert done.counts["resurrected"] == 1

    async def test_not_if_another_reading_of_the_address_withdrew_consent(
        self, store: Store
    ) -> None:
        routed = "anna%people.example@relay.example"
        withdrawn = ConsentAct("offers", NOW - 2 * DAY, withdrawal=True)
        await store.put_contacts([Contact(ANNA, acts=(withdrawn,))])
        await store.add_suppressions(
            [SuppressionEntry(routed, "marketing", Origin.UNSUBSCRIBE, NOW - 2 * DAY)]
        )
        done = await contacts(store, consent(NOW - DAY).replace(ANNA, routed))
        assert (done.counts["new"], done.counts["resurrected"]) == (1, 0)

    async def test_people_never_suppressed_are_merely_new(self, store: Store) -> None:
        done = await contacts(store, consent(NOW - DAY))
        assert (done.counts["new"], done.counts["resurrected"]) == (1, 0)
