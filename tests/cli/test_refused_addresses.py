"""People on record with an address that is refused now: their rights hold, but get no mail."""

import asyncio
from pathlib import Path

import pytest

from smtpproxy.config import load
from smtpproxy.policy.model import Contact, Source
from smtpproxy.store import opened_store
from tests.cli.stored import Stored

REFUSED = [
    '"(x)anna"@people.example',
    '"<anna>"@people.example',
    '"anna @x.test"@people.example',
    "anna%strasse.test@people.example",  # ß was accepted until addresses were folded
]


def typed(address: str) -> str:
    """The address as the person writes it."""
    return address.replace("strasse", "stra\u00dfe").replace("anna", "Anna")


@pytest.fixture(params=REFUSED)
def address(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def stored(tmp_path: Path, address: str) -> Stored:
    stored = Stored(tmp_path)
    settings = load(stored.config_path)
    stored.run("migrate")

    async def put() -> None:
        async with opened_store(settings) as store:
            await store.put_contacts([Contact(address, source=Source.DIRECT)])

    asyncio.run(put())
    return stored


def test_their_records_can_be_shown_corrected_and_erased(stored: Stored, address: str) -> None:
    given = typed(address)
    assert stored.json("contact", "show", given)["address"] == address
    assert address.replace('"', '\\"') in stored.run("contact", "export", given).stdout
    assert stored.json("contact", "export", given, "--evidence")["address"] == address
    corrected = stored.json("contact", "rectify", given, "--add-tag", "vip", "--reason", "letter")
    assert corrected["address"] == address
    stored.run("contact", "object", given)
    stored.run("consent", "withdraw", given, "--purpose", "offers")
    assert stored.json("contact", "erase", given)["erased"] is True
    stored.run("contact", "show", given, code=1)
    found = stored.json("suppress", "show", given)["suppressions"]
    assert {one["origin"] for one in found} == {"objection", "erasure"}
    assert stored.run("suppress", "key", given).stdout.startswith("hmac:")
    stored.run("suppress", "remove", given, "--all", "--reason", "the person asked")
    stored.run("suppress", "show", given, code=1)
    assert stored.run("audit", "export", "--recipient", given).stdout == ""


def test_nothing_new_is_recorded_under_such_an_address(stored: Stored, address: str) -> None:
    given = typed(address)
    for command in (
        ("suppress", "add", given),
        ("consent", "record", given, "--purpose", "offers", "--method", "signed_form"),
        ("contact", "rectify", given, "--new-address", given, "--reason", "x"),
    ):
        assert "write the address without" in stored.run(*command, code=2).stderr
