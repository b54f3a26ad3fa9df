"""Reading `[feedback]` from a file, and its warnings."""

import pytest

from smtpproxy.config import parse
from smtpproxy.config.warnings import warnings

FILE = """
[server]
hostname = "relay.example.com"
state_dir = "/srv/state"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
streams = ["offers"]
[upstream]
address = "127.0.0.1:10025"
[[stream]]
name = "offers"
class = "marketing"
purpose = "shoes"
[feedback]
domain = "Bounces.example.com"
"""


def test_the_defaults_of_feedback() -> None:
    settings = parse(FILE, "file")
    feedback = settings.feedback
    assert feedback is not None
    assert (feedback.domain, feedback.address) == ("bounces.example.com", None)
    assert (feedback.require_token, feedback.authenticate) == (True, "optional")
    assert str(settings.feedback_dir) == "/srv/state/feedback"
    assert settings.makes_tokens, "the keys exist before the first report"
    assert not settings.streams["offers"].verp


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ("", []),
        ('address = "127.0.0.1:2526"', []),
        ('address = "0.0.0.0:2526"', ["feedback.address"]),
        ("require_token = false", ["feedback.require_token"]),
        ('require_token = false\nauthenticate = "required"', []),
    ],
)
def test_settings_that_let_strangers_suppress_people_give_a_warning(
    more: str, warned: list[str]
) -> None:
    found = [text.partition(":")[0] for text in warnings(parse(FILE + more, "file"))]
    assert [place for place in found if place.startswith("feedback")] == warned


@pytest.mark.parametrize(
    ("alignment", "own", "key", "warned"),
    [
        ("strict", "example.com", "", True),
        ("strict", "bounces.example.com", "", False),
        ("relaxed", "news.example.com", "", False),
        ("relaxed", "other.example", "", True),
        ("strict", "example.com", '[[dkim]]\ndomain="example.com"\nselector="a"\nkey="/k"', False),
        ("off", "other.example", "", False),
        ("strict", "", "", True),  # from any domain
        ("relaxed", "", '[[dkim]]\ndomain="example.com"\nselector="a"\nkey="/k"', False),
        ("off", "", "", False),
    ],
)
def test_a_reverse_path_that_breaks_alignment_gives_a_warning(
    alignment: str, own: str, key: str, warned: bool
) -> None:
    domains = f'["{own}"]' if own else "[]"
    stream = f'verp = true\nalignment = "{alignment}"\nfrom_domains = {domains}\n'
    text = FILE.replace("[feedback]", stream + "[feedback]") + key
    found = [each for each in warnings(parse(text, "file")) if "(verp)" in each]
    assert len(found) == warned
