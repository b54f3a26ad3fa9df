"""A configuration compared with the store: the purposes in its rows, and its other relays."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from smtpproxy.config import load
from smtpproxy.policy.model import ConsentAct
from smtpproxy.settings import Settings
from smtpproxy.store.configurations import of_consents, of_relays, of_rows, state_of
from smtpproxy.store.register import relay_id
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.store.conftest import Database
from tests.store.contract import ANNA

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def database(any_database: Database) -> Database:
    return any_database


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "smtpproxy.toml"
    (tmp_path / "state").mkdir()
    path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:10025")))
    return load(path)


async def test_a_purpose_without_a_stream_is_reported(
    database: Database, settings: Settings
) -> None:
    store = database.open()
    for purpose in ("offers", "ofers"):
        await store.record_act(ANNA, ConsentAct(purpose, NOW, method="unticked_box"))
    assert await store.consent_purposes() == ["ofers", "offers"]
    (one,) = await of_consents(settings, store)
    assert str(one) == (
        'purpose "ofers": consent was recorded for it, but no stream has that purpose: it permits'
        " nothing; give a stream the purpose that people agreed to"
    )
    assert await of_rows(settings, store) == [one]


async def test_differences_from_other_relays_are_reported(
    database: Database, settings: Settings
) -> None:
    store = database.open()
    mine = state_of(settings)
    await store.tell(relay_id(settings.server.state_dir), mine, at=NOW)
    await store.tell("a" * 16, mine, at=NOW)
    assert await of_relays(settings, store, now=NOW) == []
    streams = {**mine.streams, "offers": "marketing, rulebook de, brand default, purpose offers"}
    del streams["b2b"]
    streams["news"] = "marketing, rulebook fr, brand default, purpose news"
    other = msgspec.structs.replace(mine, host="two", streams=streams, brands=("shoes",))
    await store.tell("a" * 16, other, at=NOW)
    found = await of_relays(settings, store, now=NOW)
    assert {one.subject for one in found} == {"relay two (aaaaaa)"}
    assert [one.text for one in found] == [
        'lacks stream "b2b" of this one',
        'has stream "news", but this one lacks it',
        f'stream "offers" is {streams["offers"]} there, but {mine.streams["offers"]} here',
        'has brand "shoes", but this one lacks it',
    ]
    assert await of_relays(settings, store, now=NOW + timedelta(hours=2)) == [], (
        "a silent relay is ignored"
    )
