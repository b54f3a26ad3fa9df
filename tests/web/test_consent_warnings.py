"""The warnings about a consent just recorded match what the relay then does."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from smtpproxy.config import parse
from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    Action,
    ConsentAct,
    Contact,
    Evidence,
    RecipientFacts,
    Source,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.recorded_consent import refused_still, unproven
from smtpproxy.settings import Settings
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.policy.cases import ADDRESS, AGREED, NOW, PERSON

STREAMS = [
    {"name": "offers", "class": "marketing", "purpose": "offers"},
    {"name": "receipts", "class": "transactional", "purpose": "offers"},
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    document = relay_config(tmp_path, "127.0.0.1:25", {"stream": STREAMS})
    return parse(to_toml(document), "x.toml")


LATER = ConsentAct("offers", AGREED.at + timedelta(days=1), withdrawal=True)


@pytest.mark.parametrize(
    ("more", "streams"),
    [
        ({}, []),
        ({"acts": (AGREED, LATER)}, ["offers"]),
        ({"tags": frozenset({"restricted"})}, ["offers"]),
        ({"source": Source.WEB}, ["offers"]),
        ({"source": Source.WEB, "tags": frozenset({"restricted"})}, ["offers"]),
    ],
)
def test_only_streams_that_refuse_are_named(
    settings: Settings, more: dict[str, Any], streams: list[str]
) -> None:
    contact: Contact = changed(PERSON, **{"acts": (AGREED,), **more})
    known = RecipientFacts(contact=contact)
    asked = (settings, ADDRESS, AGREED, known, NOW)
    said = list(refused_still(*asked))
    assert [stream for stream, _ in said] == streams
    for name, verdict in said:
        stream = settings.streams[name]
        book = settings.rulebooks[stream.rulebook]
        decided = judge_recipient(RecipientCase(ADDRESS, stream, known, book, NOW))
        assert (verdict.action, verdict.reason) == (Action.REFUSE, decided.reason)


@pytest.mark.parametrize("wording", [None, " ", "\u200b"])
def test_blank_evidence_is_reported_as_missing(settings: Settings, wording: str | None) -> None:
    act = changed(AGREED, evidence=Evidence(wording))
    contact = changed(PERSON, acts=(act,))
    assert list(unproven(settings, act, contact)) == [("wording", ())]
    assert list(unproven(settings, AGREED, contact)) == []
