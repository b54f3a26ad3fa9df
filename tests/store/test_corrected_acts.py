"""Whether a consent was a condition of the service may be learnt later, which corrects the act."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import ConsentAct, Contact, Evidence
from smtpproxy.store.sql.store import Store
from tests.store.conftest import Database
from tests.store.imports_contract import ANNA, T0, begun

UNKNOWN = ConsentAct("offers", T0, method="unticked_box", evidence=Evidence("form v3"))
NO = replace(UNKNOWN, conditional=False)
YES = replace(UNKNOWN, conditional=True)
LATER = replace(UNKNOWN, at=T0 + timedelta(days=1))
Acts = tuple[ConsentAct, ...]


@pytest.fixture
def store(any_database: Database) -> Store:
    return any_database.open()


async def tell(store: Store, *acts: ConsentAct) -> tuple[int, int]:
    """Import them; return how many contacts that changed, and left unchanged."""
    importing = await begun(store)
    result = await importing.contacts(Contact(ANNA, acts=acts))
    return result.changed, result.unchanged


async def acts(store: Store) -> Acts:
    contact = await store.contact(ANNA)
    return () if contact is None else contact.acts


def test_conditional_is_unknown_by_default() -> None:
    assert ConsentAct("offers", T0).conditional is None


@pytest.mark.parametrize("known", [NO, YES])
async def test_a_later_answer_corrects_the_act(store: Store, known: ConsentAct) -> None:
    await tell(store, UNKNOWN, LATER)
    assert await tell(store, known) == (1, 0)
    assert await acts(store) == (known, LATER)
    assert await tell(store, known, LATER) == (0, 1)
    assert await store.record_act(ANNA, replace(LATER, at=T0 + timedelta(days=2)))
    assert len(await acts(store)) == 3


@pytest.mark.parametrize("known", [NO, YES])
async def test_a_file_without_an_answer_changes_none(store: Store, known: ConsentAct) -> None:
    await tell(store, known)
    assert await tell(store, UNKNOWN) == (0, 1)
    assert not await store.record_act(ANNA, UNKNOWN)
    assert await acts(store) == (known,)


@pytest.mark.parametrize("told", [(UNKNOWN, NO), (NO, UNKNOWN)])
async def test_answers_within_one_file_are_merged(store: Store, told: Acts) -> None:
    await tell(store, *told)
    assert await acts(store) == (NO,)
    await tell(store, LATER, replace(LATER, conditional=True))
    assert await acts(store) == (NO, replace(LATER, conditional=True))


async def test_contradictory_answers_about_one_act_are_both_kept(store: Store) -> None:
    await tell(store, UNKNOWN)
    await tell(store, YES)
    await tell(store, NO)
    assert set(await acts(store)) == {YES, NO}
    assert await tell(store, UNKNOWN) == (0, 1)


@pytest.mark.parametrize("order", [(UNKNOWN, NO), (NO, UNKNOWN)])
async def test_undoing_either_import_leaves_what_the_other_said(store: Store, order: Acts) -> None:
    for undone, left in ((0, order[1]), (1, order[0])):
        imports = []
        for act in order:
            imports.append(await begun(store))
            await imports[-1].contacts(Contact(ANNA, acts=(act,)))
        assert await acts(store) == (NO,)
        await imports[undone].undo()
        assert await acts(store) == (left,)
        await imports[1 - undone].undo()
        assert await store.contact(ANNA) is None
