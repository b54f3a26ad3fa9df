"""Imports undone in any order: no permission is left that no remaining file gives."""

from random import Random

import pytest
from msgspec.structs import replace

from smtpproxy.store.collected import included_in
from smtpproxy.store.records import ContactUpdate
from tests.kit.soak import times
from tests.store.conftest import Database
from tests.store.imports_contract import begun
from tests.store.test_collected import ANNA, some


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(times(10, 300)))
async def test_undoing_leaves_only_what_the_other_imports_said(
    any_database: Database, seed: int
) -> None:
    random = Random(seed)
    store = any_database.open()
    lines, imports = {}, []
    try:
        for number in range(3):
            line = some(random, [None, "shop", "mill"])
            agreed = tuple(act for act in line.contact.acts if not act.withdrawal)
            contact = replace(line.contact, acts=agreed, profiling_objected_at=None)
            lines[number] = contact
            imports.append(await begun(store))
            update = ContactUpdate(contact, line.given, line.as_of)
            await store.put_contacts([update], imports[-1].next_batch())
        for number in random.sample(range(3), 3):
            await imports[number].undo()
            del lines[number]
            left, told = await store.contact(ANNA), lines.values()
            assert (left is None) is not bool(lines)
            for act in left.acts if left else ():
                assert any(included_in(one.acts)(act) for one in told)
            for bought in left.purchases if left else ():
                assert any(included_in(one.purchases)(bought) for one in told)
    finally:
        await store.close()
