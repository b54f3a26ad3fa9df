"""Rate limits hold across workers and restarts: mail is counted in one place."""

import smtplib
from collections.abc import Callable

from tests.kit.ports import LOOPBACK
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream


def sent(relay: RelayProcess, connections: int) -> int:
    """How many of `connections` had their MAIL accepted."""
    accepted = 0
    for _ in range(connections):
        with smtplib.SMTP(LOOPBACK, relay.port("shop"), timeout=10) as client:
            client.ehlo()
            code, text = client.mail("news@shop.example")
            assert code == 250 or (code, text) == (450, b"4.7.1 rate limit; try again later")
            if code == 250:
                accepted += client.rcpt(address("consent"))[0] == 250
    return accepted


def test_a_rate_limit_covers_all_workers(
    mta: FakeUpstream, filled: Callable[..., RelayProcess]
) -> None:
    shop = listener("shop", "offers", default="offers", message_rate="12/1h")
    relay = filled(mta.address, {"server": {"workers": 2}, "listener": [shop], "web": {}})
    assert sent(relay, 8) == 8
    assert relay.terminate() == 0
    relay.start()
    assert sent(relay, 10) == 4
    assert relay.metric("smtpproxy_limited_total", listener="shop", limit="message_rate") == 6
