"""Concurrent requests to two relays on one PostgreSQL lose nothing and repeat nothing."""

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from smtpproxy.client import ApiProblem, Client, ConsentToRecord, ContactRecord, NewSuppression
from smtpproxy.policy.model import Source
from smtpproxy.settings import StoreSettings
from tests.kit.parts import needs
from tests.store.conftest import OnPostgresql
from tests.web.serving import served_aside
from tests.web.test_api_writes import ANNA, two_brands

pytestmark = [needs("postgresql")]

ROUNDS = 5


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("relays")
    settings = two_brands(folder)
    with ExitStack() as running:
        database = running.enter_context(OnPostgresql(folder))
        server = replace(settings.server, state_dir=folder)
        settings = replace(settings, server=server, store=StoreSettings(database.url, 20.0))
        one, two = (running.enter_context(served_aside(settings)) for _ in range(2))
        yield one, two


def test_of_two_updates_to_one_version_a_single_one_succeeds(urls: tuple[str, str]) -> None:
    def write(which: int, address: str, language: str, version: str) -> str:
        with Client(urls[which], "all") as api:
            try:
                record = ContactRecord(address, language=language, brand="shop")
                return api.upsert_contact(record, version=version).result
            except ApiProblem as refused:
                return refused.problem.error

    with ThreadPoolExecutor(8) as aside:
        for number in range(ROUNDS):
            address, version = f"p{number}@people.example", ""
            for languages in (("fr", "de", "it", "es"), ("nl", "en", "pt", "sv")):
                told = list(aside.map(write, (0, 1, 0, 1), [address] * 4, languages, [version] * 4))
                assert Counter(told)["changed_meanwhile"] == 3, told
                with Client(urls[0], "all") as api:
                    known = api.get_contact(address)
                assert known is not None
                won = next(i for i, one in enumerate(told) if one in ("added", "changed"))
                assert known.contact.language == languages[won]
                version = known.version


def test_a_request_sent_to_both_with_one_key_is_done_once(urls: tuple[str, str]) -> None:
    def record(which: int, key: str) -> int:
        headers = {"Authorization": "Bearer all", "Idempotency-Key": key}
        act = {"address": ANNA, "purpose": "offers", "brand": "shop", "method": "unticked_box",
               "wording": key, "source": "direct"}  # fmt: skip
        asked = urllib.request.Request(
            f"{urls[which]}/v1/consents/record", json.dumps(act).encode(), headers
        )
        try:
            with urllib.request.urlopen(asked) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    with ThreadPoolExecutor(6) as aside:
        for number in range(ROUNDS):
            told = list(aside.map(record, (0, 1) * 3, [f"k{number}"] * 6))
            assert set(told) <= {200, 409}, told
    with Client(urls[0], "all") as api:
        known = api.get_contact(ANNA)
    assert known is not None
    wordings = Counter(act.evidence.wording for act in known.contact.consents if act.evidence)
    assert wordings == {f"k{number}": 1 for number in range(ROUNDS)}


def test_additions_by_both_to_a_contact_are_kept(urls: tuple[str, str]) -> None:
    address = "both@people.example"

    def add(which: int, number: int) -> None:
        with Client(urls[which], "all") as api:
            act = ConsentToRecord(address, "offers", "unticked_box", brand="shop",
                                  wording=f"w{number}", source=Source.DIRECT)  # fmt: skip
            api.record_consent(act)
            api.upsert_contact(ContactRecord(address, brand="shop", tags=[f"t{number}"]))
            api.suppress(NewSuppression(address, f"purpose:p{number}"))

    with ThreadPoolExecutor(6) as aside:
        list(aside.map(add, (0, 1) * 4, range(8)))
    with Client(urls[1], "all") as api:
        known = api.get_contact(address)
    assert known is not None
    assert len(known.contact.consents) == 8
