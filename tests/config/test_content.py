"""The requirements on content that a configuration makes."""

from typing import Any

import pytest

from smtpproxy.config import parse
from smtpproxy.config.warnings import warnings
from smtpproxy.settings import Settings
from tests.kit.toml import to_toml

ACME, OTHER = "ACME SA, 1 rue X, 75001 Paris", "ACME Ltd, 1 Road Y, London"
OFFERS = {"name": "offers", "class": "marketing", "purpose": "offers"}
RECEIPTS = {"name": "receipts", "class": "transactional"}


def read(*streams: dict[str, Any], **policy: Any) -> Settings:
    names = [stream["name"] for stream in streams]
    listener = {"name": "apps", "address": "127.0.0.1:2525", "streams": names}
    document = {
        "server": {"hostname": "relay.example.com"},
        "listener": [{**listener, "default_stream": names[0]}],
        "upstream": {"address": "127.0.0.1:10025"},
        "policy": policy,
        "stream": list(streams),
    }
    return parse(to_toml(document), "test.toml")


def test_the_common_imprint_applies_to_rulebooks_that_require_one() -> None:
    own = {**OFFERS, "name": "own", "imprint": [OTHER]}
    there = {**OFFERS, "name": "there", "rulebook": "us"}
    streams = read(OFFERS, own, there, RECEIPTS, imprint=[ACME]).streams
    found = {name: stream.imprint for name, stream in streams.items()}
    assert found == {
        "default": (),
        "offers": (),  # fr requires no postal address
        "own": (OTHER,),
        "there": (ACME,),
        "receipts": (),
    }
    assert read(OFFERS, imprint=[ACME], rulebook="de").streams["default"].imprint == (ACME,)


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        (None, None, ("observe", "observe", "observe")),
        ("strip", None, ("strip", "strip", "observe")),
        ("allow", None, ("allow", "allow", "allow")),
        ("refuse", "strip", ("refuse", "strip", "strip")),
        ("strip", "allow", ("strip", "allow", "allow")),
    ],
)
def test_transactional_streams_only_observe_by_default(
    common: str | None, own: str | None, expected: tuple[str, ...]
) -> None:
    more = {} if own is None else {"tracking_pixels": own}
    policy = {} if common is None else {"tracking_pixels": common}
    streams = read(OFFERS | more, RECEIPTS | more, **policy).streams
    assert tuple(streams[name].tracking_pixels for name in ("default", "offers", "receipts")) == (
        expected
    )


@pytest.mark.parametrize(("rulebook", "warned"), [("fr", False), ("us", True), ("de", True)])
def test_check_warns_if_the_imprint_is_never_checked(rulebook: str, warned: bool) -> None:
    def said(settings: Settings) -> list[str]:
        return [text for text in warnings(settings) if "imprint" in text]

    assert bool(said(read(OFFERS, RECEIPTS, rulebook=rulebook))) == warned
    assert not said(read(OFFERS, RECEIPTS, rulebook=rulebook, imprint=[ACME]))
    if warned:
        assert said(read(OFFERS, RECEIPTS, rulebook=rulebook)) == [
            f'stream "offers".imprint: not set, and rulebook "{rulebook}" requires the'
            " sender's postal address in each message: it is not checked (policy.imprint"
            " applies to all streams)"
        ]


@pytest.mark.parametrize(
    ("keys", "most", "counts"),
    [
        ({}, None, False),
        ({"undeclared_bulk": "observe", "bulk_recipients": 20}, 20, True),
        ({"undeclared_bulk": "refuse"}, 100, True),
        ({"undeclared_bulk": "marketing", "bulk_recipients": 5, "bulk_window": "10m"}, 5, True),
    ],
)
def test_texts_are_counted_only_where_required(
    keys: dict[str, Any], most: int | None, counts: bool
) -> None:
    settings = read({**RECEIPTS, **keys})
    assert settings.streams["receipts"].bulk_recipients == most
    assert settings.counts_bulk == counts
    assert settings.streams["receipts"].reads_text == counts
    assert settings.streams["receipts"].bulk_window == (600 if "bulk_window" in keys else 3600)
