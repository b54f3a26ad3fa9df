"""Which API token wrote what, in every kind of database."""

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from smtpproxy.policy.model import ConsentAct, Contact, Evidence, Origin
from smtpproxy.store.operations import Batch, Checkpoint, ImportRecord
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from tests.store.conftest import Database

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
ANNA = "anna@people.example"
ORDER = SuppressionEntry(ANNA, "marketing", Origin.OBJECTION, T0, by="token crm")


async def test_who_added_and_who_lifted_a_suppression_is_on_record(any_database: Database) -> None:
    store = any_database.open()
    await store.add_suppressions([ORDER, SuppressionEntry(ANNA, "all", Origin.MANUAL, T0)])
    assert await store.authors(ANNA) == {("marketing", "objection"): "token crm"}
    assert await store.authors("other@people.example") == {}
    await store.remove_suppression(ANNA, at=T0, reason="erased", by="token desk")
    assert await store.authors(ANNA) == {}
    lifted = {one.scope: one for one in await store.lifted_suppressions(ANNA)}
    assert (lifted["marketing"].given_by, lifted["marketing"].lifted_by) == (
        "token crm", "token desk",
    )  # fmt: skip
    assert (lifted["all"].given_by, lifted["all"].lifted_by) == (None, "token desk")


async def test_whoever_moves_a_suppression_becomes_its_author(any_database: Database) -> None:
    store = any_database.open()
    await store.add_suppressions([ORDER])
    later = T0 + timedelta(days=1)
    await store.add_suppressions([SuppressionEntry(ANNA, "marketing", Origin.OBJECTION, later)])
    assert await store.authors(ANNA) == {}


async def test_rekeying_keeps_authors(any_database: Database) -> None:
    store = any_database.open()
    await store.add_suppressions([ORDER])
    await store.start_rekey(at=T0)
    await store.rekey([ANNA])
    assert await store.authors(ANNA) == {("marketing", "objection"): "token crm"}
    assert await store.finish_rekey(at=T0)
    assert await store.authors(ANNA) == {("marketing", "objection"): "token crm"}


async def test_the_same_act_from_another_author_is_not_a_new_act(any_database: Database) -> None:
    store = any_database.open()
    evidence = Evidence("Yes", recorded_by="token crm")
    act = ConsentAct("news", T0, method="unticked_box", evidence=evidence)
    assert await store.record_act(ANNA, act)
    for by in ("token desk", None):
        again = replace(act, evidence=replace(evidence, recorded_by=by))
        assert not await store.record_act(ANNA, again)
    known = await store.contact(ANNA)
    assert known is not None
    assert known.acts == (act,)


async def test_undoing_an_import_keeps_an_act_recorded_otherwise(
    any_database: Database,
) -> None:
    store = any_database.open()
    act = ConsentAct("news", T0, method="unticked_box", evidence=Evidence("Yes"))
    signed = replace(act, evidence=Evidence("Yes", recorded_by="token crm"))
    await store.record_act(ANNA, signed)
    await store.begin_import(ImportRecord("1", "contacts", "f", "u", T0, T0))
    told = ContactUpdate(Contact(ANNA, acts=(act,)), frozenset())
    done = await store.put_contacts([told], Batch("1", Checkpoint(1)))
    assert done.unchanged == 1
    await store.mark_import("1", "complete", at=T0)
    while await store.undo_import("1", at=T0, by="u") is not None:
        pass
    known = await store.contact(ANNA)
    assert known is not None
    assert known.acts == (signed,)
