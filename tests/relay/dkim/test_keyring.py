"""Which key signs, by domain, stream, type and date."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.mail.dkim import KeyRecord, KeyType
from smtpproxy.relay.dkim_signing import Keyring, SigningKey, fitting
from smtpproxy.settings import DkimSettings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def _key(kind: KeyType) -> SigningKey:
    return SigningKey(KeyRecord(kind, b""), 2048, lambda digest: b"")


def _settings(selector: str, domain: str = "shop.example", **more: object) -> DkimSettings:
    return DkimSettings(domain, selector, Path("/none"), **more)  # type: ignore[arg-type]


RSA, ED = _settings("rsa"), _settings("ed")
NEXT = _settings("next", since=NOW + DAY)
OFFERS = _settings("offers", streams=frozenset({"offers"}))
BELOW = _settings("below", "example", subdomains=True)
MAIL = _settings("mail", "mail.shop.example")
TYPES: dict[DkimSettings, KeyType] = {ED: "ed25519"}


def _chosen(
    keys: list[DkimSettings], domains: str = "shop.example", stream: str = "b2b", at: datetime = NOW
) -> list[str]:
    ring = Keyring({each: _key(TYPES.get(each, "rsa")) for each in keys})
    found = ring.in_force(tuple(domains.split()), stream, at)
    fit = fitting(keys, domains.split(), stream, at)
    assert bool(fit) == bool(found)
    return [each.settings.selector for each in found]


@pytest.mark.parametrize(
    ("keys", "domains", "chosen"),
    [
        ([RSA], "shop.example", ["rsa"]),
        ([RSA], "shop.example shop.example", ["rsa"]),
        ([RSA], "other.example", []),
        ([RSA], "mail.shop.example", []),
        ([RSA], "shop.example other.example", []),
        ([RSA], "", []),
        ([ED, RSA], "shop.example", ["rsa", "ed"]),
        ([BELOW], "a.b.example", ["below"]),
        ([BELOW], "example", ["below"]),
        ([BELOW], "notexample", []),
        ([BELOW, RSA], "shop.example", ["rsa"]),
        ([BELOW, RSA], "mail.shop.example", ["below"]),
        ([RSA, MAIL], "mail.shop.example", ["mail"]),
    ],
)
def test_the_key_is_chosen_by_domain(
    keys: list[DkimSettings], domains: str, chosen: list[str]
) -> None:
    assert _chosen(keys, domains) == chosen


def test_a_key_for_the_stream_comes_first() -> None:
    assert _chosen([OFFERS, RSA], stream="offers") == ["offers"]
    assert _chosen([OFFERS, RSA], stream="b2b") == ["rsa"]
    assert _chosen([OFFERS], stream="b2b") == []
    assert _chosen([OFFERS, RSA, ED], stream="offers") == ["offers", "ed"]


def test_a_key_is_used_from_its_date_without_a_restart() -> None:
    ring = Keyring({each: _key("rsa") for each in (NEXT, RSA)})
    asked = ("shop.example",), "b2b"
    for at, chosen in (
        (NOW, "rsa"),
        (NOW + DAY - timedelta(seconds=1), "rsa"),
        (NOW + DAY, "next"),
    ):
        assert [each.settings.selector for each in ring.in_force(*asked, at)] == [chosen]
    assert _chosen([NEXT]) == []
