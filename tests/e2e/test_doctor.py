"""`smtpproxy doctor` beside a running relay, whose links are behind a real proxy with TLS."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_ways_out import config
from tests.kit.certificates import Authority
from tests.kit.dns import NameServer
from tests.kit.haproxy import Haproxy
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.relay import RelayProcess
from tests.kit.upstream import FakeUpstream

pytestmark = needs("haproxy")
HOST = "unsubscribe.shop.example"


def _examined(relay: RelayProcess) -> tuple[dict[str, Any], str]:
    _, stdout, _ = relay.command("doctor", "--json", "--domain", "shop.example")
    report = json.loads(stdout)
    (link,) = (each for each in report["findings"] if each["check"] == "unsubscribe")
    demand = "marketing mail has one-click unsubscribe"
    (line,) = (each for each in report["checklist"] if each["demand"] == demand)
    return link, line["status"]


def test_the_relays_own_link_through_a_proxy(
    filled: Callable[..., RelayProcess],
    mta: FakeUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front, authority = free_port(), Authority(tmp_path)
    pair = authority.issue(HOST)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with NameServer(f"{HOST} A {LOOPBACK}") as dns:
        settings = config()
        settings["web"]["public_url"] = f"https://{HOST}:{front}"
        settings["dns"] = {"nameservers": [dns.address], "timeout": "1s"}
        relay = filled(mta.address, settings)
        lines = blocks(
            "unsubscribe.md",
            {
                "0.0.0.0:443": f"{LOOPBACK}:{front}",
                "/etc/haproxy/unsubscribe.pem": str(chain),
                "server web 127.0.0.1:8025": f"server web {relay.config['web']['address']}",
            },
        )[2]
        with Haproxy(lines, front):
            link, one_click = _examined(relay)
        assert link["status"] == "pass", link
        assert "a link made with the relay's keys is shown" in link["text"]
        assert one_click == "pass"
        assert relay.metric("smtpproxy_feedback_total") == 0

        link, one_click = _examined(relay)
        assert (link["status"], one_click) == ("fail", "fail")
        assert "cannot be reached" in link["text"]
