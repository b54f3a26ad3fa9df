"""Valid settings that give a warning, and similar ones that give none."""

import pytest

from smtpproxy.config import parse
from smtpproxy.config.warnings import warnings

FILE = """
[server]
hostname = "relay.example.com"
[upstream]
address = "127.0.0.1:10025"
[[stream]]
name = "offers"
class = "marketing"
purpose = "offers"
[[listener]]
name = "apps"
streams = ["offers"]
"""
NEAR, FAR, OPEN = (f'address = "{host}:2525"\n' for host in ("127.0.0.1", "10.0.0.5", "0.0.0.0"))
TLS = 'tls = "starttls"\ncertificate = "/relay.pem"\nprivate_key = "/relay.key"\n'
LOGIN = 'auth = "required"\n'
USERS = '[auth]\nusers = "/users"\n'
WEB = '[web]\naddress = "127.0.0.1:8025"\npublic_url = "https://u.example.com/x"\n'
TOKEN = f'[[token]]\nname = "crm"\nsha256 = "{"0" * 64}"\nmay = ["check"]\n'
HOOK = '[[webhook]]\nname = "crm"\nurl = "https://crm.example.com"\nsecret_file = "/secret"\n'


@pytest.mark.parametrize(
    ("more", "text", "warned"),
    [
        (OPEN, 'listener "apps".address: 0.0.0.0:2525 can be reached', True),
        (OPEN + TLS + LOGIN + USERS, 'listener "apps".address', False),
        (FAR + TLS, 'listener "apps".require_tls: not set', True),
        (FAR + TLS + "require_tls = true\n", 'listener "apps".require_tls', False),
        (FAR + TLS + LOGIN + USERS, 'listener "apps".require_tls', False),
        (FAR + TLS.replace("starttls", "implicit"), 'listener "apps".require_tls', False),
        (FAR + LOGIN + "auth_without_tls = true\n" + USERS, "cross the network in the clear", True),
        (NEAR + LOGIN + "auth_without_tls = true\n" + USERS, "in the clear", False),
        (FAR + TLS + LOGIN + USERS, "in the clear", False),
        (NEAR + TOKEN, "token: useless without a [web] address", True),
        (NEAR + TOKEN + WEB, "token:", False),
        (NEAR, "token:", False),
        (NEAR + HOOK + 'scopes = ["brand:bags"]\n', "brand:bags is not configured", True),
        (NEAR + HOOK + 'scopes = ["purpose:offers", "all"]\n', "is not configured", False),
        (NEAR + HOOK + 'deadline = "365d"\n', "later than the honour_within of fr (", True),
        (NEAR + HOOK + 'deadline = "1h"\ngive_up_after = "1h"\n', 'webhook "crm"', False),
        (NEAR + HOOK + 'deadline = "1h"\ngive_up_after = "2h"\n', "give_up_after: later", True),
        (NEAR + HOOK + 'events = ["lifted"]\n', 'without "added" the receiver never', True),
    ],
)
def test_settings_that_may_be_mistakes(more: str, text: str, warned: bool) -> None:
    found = warnings(parse(FILE + more, "file"))
    assert any(text in each for each in found) is warned, found
