"""One relay for two brands: consent to one opens nothing for the other, and a refusal counts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.messages import marketing, message
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream

ANNA = "anna@people.example"
BRANDS = [
    {
        "name": name,
        "legal_name": "Group SA",
        "address": "Paris",
        "from_domains": [f"{name}.example"],
    }
    for name in ("shop", "mill")
]
STREAMS = [
    {"name": f"{name}-news", "class": "marketing", "purpose": "news", "brand": name}
    for name in ("shop", "mill")
] + [{"name": "receipts", "class": "transactional", "brand": "shop"}]
CONSENT = {"purpose": "news", "method": "unticked_box", "given_at": "2026-01-01T00:00:00Z",
           "evidence": {"wording": "form v3"}}  # fmt: skip


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    config = {
        "web": {},
        "brand": BRANDS,
        "stream": STREAMS,
        "listener": [listener("apps", "shop-news", "mill-news", "receipts", default="receipts")],
    }
    with FakeUpstream() as mta, RelayProcess(tmp_path, mta.address, config) as relay:
        yield relay


def imported(relay: RelayProcess, folder: Path, *options: str) -> None:
    path = folder / "people.ndjson"
    path.write_text(json.dumps({"address": ANNA, "source": "direct", "consents": [CONSENT]}))
    relay.must("contact", "import", str(path), *options)


def answers(relay: RelayProcess) -> dict[str, str]:
    """The answer to each brand's newsletter to Anna."""
    found = {}
    for brand in ("shop", "mill"):
        mail = marketing(sender=f"News <news@{brand}.example>", stream=f"{brand}-news", to=ANNA)
        code, text = relay.send(mail, ANNA)
        found[brand] = "250" if code == 250 else text.partition("refused: ")[2].split()[0]
    return found


def test_consent_to_one_brand_opens_nothing_for_the_other(
    relay: RelayProcess, tmp_path: Path
) -> None:
    imported(relay, tmp_path)
    assert answers(relay) == {"shop": "brand_unproven", "mill": "brand_unproven"}
    imported(relay, tmp_path, "--brand", "shop", "--replace", "none")
    assert answers(relay) == {"shop": "250", "mill": "brand_unproven"}
    relay.must("suppress", "add", ANNA, "--scope", "brand:shop", "--origin", "complaint")
    assert answers(relay) == {"shop": "suppressed_complaint", "mill": "brand_unproven"}
    receipt = message(sender="Shop <orders@shop.example>", to=ANNA)
    assert relay.send(receipt, ANNA)[0] == 250
    imported(relay, tmp_path, "--brand", "mill", "--replace", "none")
    assert answers(relay) == {"shop": "suppressed_complaint", "mill": "250"}
    relay.must("consent", "withdraw", ANNA, "--purpose", "news")
    assert answers(relay)["mill"] == "consent_withdrawn"
    assert relay.metric("smtpproxy_suppressions", scope="brand", origin="complaint") == 1
    assert relay.metric("smtpproxy_stream_info", stream="mill-news", brand="mill") == 1


def test_one_brand_cannot_send_for_the_other(relay: RelayProcess, tmp_path: Path) -> None:
    imported(relay, tmp_path, "--brand", "shop")
    mail = marketing(sender="News <news@mill.example>", stream="shop-news", to=ANNA)
    code, text = relay.send(mail, ANNA)
    assert (code, "refused: sender_not_permitted" in text) == (550, True)


def test_the_record_names_the_brand_and_can_be_replayed(
    relay: RelayProcess, tmp_path: Path
) -> None:
    imported(relay, tmp_path, "--brand", "shop")
    answers(relay)
    found = relay.must("audit", "replay", "--rulebook", "fr", "--json")
    assert (json.loads(found)["recipients"], json.loads(found)["differing"]) == (2, 0)
    _, found, _ = relay.command("audit", "export", "--format", "csv")
    assert ",shop-news,shop,marketing," in found
    assert ",mill-news,mill,marketing," in found
