"""Reading `unsubscribe = "add"` from a file."""

import pytest

from smtpproxy.config import parse
from smtpproxy.config.warnings import warnings
from smtpproxy.policy.model import ExistingUnsubscribe

FILE = """
[server]
hostname = "relay.example.com"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
streams = ["offers"]
[upstream]
address = "127.0.0.1:10025"
[web]
address = "127.0.0.1:8025"
public_url = "https://unsubscribe.example.com"
[[stream]]
name = "offers"
class = "marketing"
purpose = "shoes"
unsubscribe = "add"
"""
DKIM = '[[dkim]]\ndomain = "example.com"\nselector = "s1"\nkey = "/etc/smtpproxy/s1.pem"\n'


def test_the_defaults_of_unsubscribe_links() -> None:
    settings = parse(FILE, "file")
    stream = settings.streams["offers"]
    assert (stream.unsubscribe_scope, stream.list_id) == (
        "purpose:shoes",
        "offers.relay.example.com",
    )
    assert stream.existing_unsubscribe is ExistingUnsubscribe.KEEP
    assert settings.adds_unsubscribe
    assert settings.streams["default"].unsubscribe_scope is None


def test_all_settings_of_unsubscribe_links() -> None:
    more = (
        'existing_unsubscribe = "replace"\nunsubscribe_scope = "marketing"\n'
        'unsubscribe_mailto = "Stop@Example.com"\nlist_id = "Shoes.Example.com"\n'
    )
    stream = parse(FILE + more, "file").streams["offers"]
    assert (stream.unsubscribe_scope, stream.existing_unsubscribe) == ("marketing", "replace")
    assert (stream.unsubscribe_mailto, stream.list_id) == ("stop@example.com", "shoes.example.com")


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ("", True),
        (DKIM, False),
        (DKIM + 'streams = ["offers"]\n', False),
        (DKIM + 'streams = ["default"]\n', True),
    ],
)
def test_an_unsigned_unsubscribe_link_gives_a_warning(more: str, warned: bool) -> None:
    found = [text for text in warnings(parse(FILE + more, "file")) if ".unsubscribe" in text]
    assert bool(found) == warned
