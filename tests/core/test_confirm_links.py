"""Which of our confirm links a message holds, and for whom."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from msgspec.structs import replace

from smtpproxy.core.confirm_links import ConfirmLinks
from smtpproxy.mail.confirmation_token import Confirmation, read_confirmation, seal_confirmation
from smtpproxy.mail.mime import Body, TextPart
from smtpproxy.mail.unsubscribe_token import KEY_OCTETS, TokenRing, Unsubscription
from smtpproxy.mail.visible_text import visible_text
from smtpproxy.policy.model import ConfirmLink, Stream

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ANNA, EVE = "anna@people.example", "eve@people.example"
STREAM = Stream("renewal", purpose="offers", permission=True)
RING = TokenRing({1: bytes(KEY_OCTETS)})
OTHER = TokenRing({1: bytes([1]) * KEY_OCTETS})
BASE = "https://confirm.example/c/"
TOLD = Confirmation("permission", ANNA, "default", "offers", NOW, NOW + timedelta(days=30), "en")
UNSUBSCRIBE = RING.seal(Unsubscription(ANNA, "marketing", "01JKB3Q00020CT1R0RZ1H6E7A8"))


def link(ring: TokenRing = RING, **changed: object) -> str:
    return BASE + seal_confirmation(ring, replace(TOLD, **changed))


@pytest.mark.parametrize(
    ("links", "people", "now", "expected"),
    [
        ([link()], [ANNA], NOW, "valid"),
        ([link(), "https://shop.example/", link()], [ANNA], TOLD.until, "valid"),
        ([link(), link(lang="fr")], [ANNA], NOW, "valid"),
        ([link()], [ANNA], TOLD.until + timedelta(microseconds=1), "over"),
        ([], [ANNA], NOW, "missing"),
        (["https://confirm.example/c", "https://confirm.example.evil/c/x"], [ANNA], NOW, "missing"),
        ([link()], [EVE], NOW, "foreign"),
        ([link(), link(recipient=EVE)], [ANNA], NOW, "foreign"),
        ([link(purpose="news")], [ANNA], NOW, "foreign"),
        ([link(brand="shoes")], [ANNA], NOW, "foreign"),
        ([link(kind="consent")], [ANNA], NOW, "foreign"),
        ([link(OTHER)], [ANNA], NOW, "unknown"),
        ([link() + "A"], [ANNA], NOW, "unknown"),
        ([BASE], [ANNA], NOW, "unknown"),
        ([BASE + UNSUBSCRIBE], [ANNA], NOW, "unknown"),
        ([link()], [ANNA, EVE], NOW, "several"),
        ([link(at=NOW + timedelta(seconds=n)) for n in range(21)], [ANNA], NOW, "unknown"),
    ],
)
def test_links(links: list[str], people: list[str], now: datetime, expected: str) -> None:
    found = ConfirmLinks("https://confirm.example", partial(read_confirmation, RING)).found(
        links, people, STREAM, now
    )
    assert found is ConfirmLink(expected)


@pytest.mark.parametrize(
    "text", ["Yes: {}", "Yes: {}.", "_{}_", "*{}*", "_Say yes: {}_!", "_Yes: {}._", "__{}__"]
)
@pytest.mark.parametrize("end", ["_", "-", "A"])
def test_a_link_in_plain_text_is_found_whatever_its_token_ends_in(text: str, end: str) -> None:
    made = (link(recipient=f"p{n}@people.example") for n in range(10_000))
    number, one = next((n, one) for n, one in enumerate(made) if one.endswith(end))
    read = visible_text(Body((TextPart(True, text.format(one)),), whole=True)).links
    found = ConfirmLinks("https://confirm.example", partial(read_confirmation, RING)).found(
        read, [f"p{number}@people.example"], STREAM, NOW
    )
    assert found is ConfirmLink.VALID, (one, read)


def test_a_link_reveals_nothing_about_its_reader() -> None:
    assert "anna" not in link()
    longest = f"{'a' * 64}@{'.'.join(['b' * 63] * 3)}.{'c' * 59}"
    token = seal_confirmation(
        RING, replace(TOLD, recipient=longest, brand="b" * 63, purpose="p" * 63)
    )
    assert len(token) <= 1_000
    assert read_confirmation(RING, token).recipient == longest
