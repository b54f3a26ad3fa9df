"""What relays report about themselves, and when a new key takes effect, in each database."""

from datetime import timedelta

import pytest

from smtpproxy.store.register import (
    NotEverywhere,
    OtherKeyCounts,
    Relay,
    RelayState,
    living,
    relay_id,
)
from tests.store.conftest import Database
from tests.store.contract import T0

OLD, NEW = {1: "aaaa0001"}, {1: "aaaa0001", 2: "bbbb0002"}
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def database(any_database: Database) -> Database:
    return any_database


def state(host: str, links: dict[int, str]) -> RelayState:
    return RelayState(host, {"unsubscribe.key": links, "suppression.key": {}})


async def test_the_last_report_of_a_relay_counts(database: Database) -> None:
    store = database.open()
    await store.tell("b" * 16, state("two", OLD), at=T0)
    await store.tell("a" * 16, state("two", OLD), at=T0)
    await store.tell("c" * 16, state("one", NEW), at=T0)
    await store.tell("b" * 16, state("two", NEW), at=T0 + MINUTE)
    found = await store.relays()
    assert [(each.state.host, each.id[0]) for each in found] == [
        ("one", "c"), ("two", "a"), ("two", "b"),
    ]  # fmt: skip
    assert found[-1] == Relay("b" * 16, T0 + MINUTE, state("two", NEW))
    assert found[-1].holds("unsubscribe.key", 2, "bbbb0002")
    assert not found[1].holds("unsubscribe.key", 2, "bbbb0002")
    assert [each.id[0] for each in living(found, T0 + HOUR + MINUTE)] == ["b"]
    await store.tell("b" * 16, state("two", NEW), at=T0 + timedelta(days=31))
    assert [each.id[0] for each in await store.relays()] == ["b"]


async def test_the_first_link_keys_are_registered_once(database: Database) -> None:
    store = database.open()
    assert await store.link_keys() == {}
    assert await store.register_link_keys(OLD, at=T0) == OLD
    assert await store.register_link_keys({1: "cccc0001"}, at=T0) == OLD, "another relay's keys"


async def test_a_link_key_takes_effect_once_all_relays_have_it(database: Database) -> None:
    store = database.open()
    own = relay_id(database.folder)
    await store.register_link_keys(OLD, at=T0)
    await store.tell(own, state("here", OLD), at=T0)  # it may read its file a moment later
    await store.tell("b" * 16, state("there", OLD), at=T0)
    with pytest.raises(NotEverywhere, match=r"key 2 .* not yet on there \(bbbbbb\): copy"):
        await store.use_link_key(2, NEW[2], at=T0)
    await store.tell("b" * 16, state("there", {**OLD, 2: "cccc0002"}), at=T0)
    with pytest.raises(NotEverywhere):
        await store.use_link_key(2, NEW[2], at=T0)
    assert await store.link_keys() == OLD
    await store.tell("b" * 16, state("there", NEW), at=T0)
    await store.use_link_key(2, NEW[2], at=T0)
    assert await store.link_keys() == NEW
    with pytest.raises(OtherKeyCounts, match=r"\(bbbb0002\) was just made .* from relay there"):
        await store.use_link_key(2, "cccc0002", at=T0, force=True)
    assert await store.link_keys() == NEW
    assert await store.retire_link_key(1, at=T0)
    assert not await store.retire_link_key(1, at=T0)
    assert await store.link_keys() == {2: NEW[2]}
    assert await store.register_link_keys(OLD, at=T0) == {2: NEW[2]}


async def test_silent_relays_are_not_waited_for_nor_any_if_forced(database: Database) -> None:
    store = database.open()
    await store.tell("b" * 16, state("there", OLD), at=T0)
    await store.use_link_key(2, NEW[2], at=T0, force=True)
    await store.use_link_key(3, "dddd0003", at=T0 + HOUR + MINUTE)
    assert max(await store.link_keys()) == 3


async def test_a_new_suppression_key_waits_for_all_relays(database: Database) -> None:
    store = database.open()
    await store.tell("b" * 16, state("there", OLD), at=T0)
    with pytest.raises(NotEverywhere):
        await store.start_rekey(at=T0)
    made = database.key_path.read_bytes()
    with pytest.raises(NotEverywhere):
        await store.start_rekey(at=T0)
    assert database.key_path.read_bytes() == made, "the key already made is reused"
    assert [key.version for key in await store.keys()] == [1]
    assert await store.start_rekey(at=T0, force=True) == 2
