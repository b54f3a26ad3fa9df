"""From a message to its reader's personal page, by a link that the relay mails."""

import json
import re
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.e2e.test_unsubscribe import JEANNE
from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.audit import records
from tests.kit.chromium import Chromium
from tests.kit.page_pictures import LOGO
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

pytestmark = pytest.mark.needs("chromium")


def test_a_reader_sees_and_then_erases_their_data(
    filled: Callable[..., RelayProcess], upstream: FakeUpstream, tmp_path: Path
) -> None:
    settings = config()
    settings["confirmation"] = {"sender": "hello@shop.example"}
    logo = tmp_path / "logo.svg"
    logo.write_text(LOGO)
    settings["brand"] = [
        {"name": "shop", "title": "The Shop", "legal_name": "Shop SA", "address": "Paris",
         "logo": str(logo), "colour": "#8a1538"}
    ]  # fmt: skip
    relay = filled(upstream.address, settings)
    assert relay.send(bare(), JEANNE)[0] == 250
    page = f"{relay.url}/u/{tokens(upstream.messages[0])}"
    # People who objected to all advertising still have the right to see their data.
    relay.must("suppress", "add", JEANNE, "--origin", "objection", "--scope", "marketing")
    told = ("--method", "unticked_box", "--wording", "openings, v1", "--brand", "shop")
    relay.must("consent", "record", JEANNE, "--purpose", "tracking", *told)
    upstream.messages.clear()
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.run("document.querySelector('header img').naturalWidth") == 48
        button = "getComputedStyle(document.querySelector('button')).backgroundColor"
        assert browser.run(button) == "rgb(138, 21, 56)"
        told = browser.press("form:has(input[value=link]) button")
        assert "Please check your mailbox" in told
        (sent,) = upstream.messages
        mail = message_from_bytes(sent.data, policy=policy.default)
        assert mail["To"] == JEANNE
        (link,) = re.findall(r"(/c/\S+)", mail.get_content())  # type: ignore[attr-defined]
        assert JEANNE not in browser.open(f"{relay.url}{link}")
        shown = browser.press("button")
        assert JEANNE in shown
        assert "you objected" in shown
        page = browser.press("form:has(input[value=untrack]) button")
        assert "Your choice is saved." in page
        assert "Do not record what I open" not in page
        lines = map(json.loads, relay.must("contact", "export").splitlines())
        (kept,) = [each["consents"] for each in lines if each["address"] == JEANNE]
        assert [c["withdrawn_at"] is None for c in kept if c["purpose"] == "tracking"] == [False]
        browser.run("document.querySelector('input[name=sure]').click()")
        page = browser.press("form:has(input[value=erase]) button")
        assert "Your profile, your agreements and your purchases are erased." in page
        assert "is kept for 5 years from each message" in page
    code, _, _ = relay.command("contact", "show", JEANNE)
    assert code == 1
    assert JEANNE not in relay.output
    (record,) = [one for one in records(relay) if one.decided.decision.stream.name == "personal"]
    assert record.decided.relayed
    proof = relay.must("contact", "export", JEANNE, "--evidence", "--lang", "en")
    assert "box they ticked, wording “form v3”" in proof, "the proof must outlive the profile"
    shown = json.loads(relay.must("suppress", "show", JEANNE, "--json"))
    assert "erasure" in json.dumps(shown)
