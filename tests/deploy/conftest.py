"""A relay in use, watched by a real Prometheus."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificates import Authority
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.processes import kill_all, running
from tests.kit.prometheus import Prometheus, Watched
from tests.kit.receiver import SECRET_LINE
from tests.kit.relay import STREAMS, RelayProcess, relay_config
from tests.kit.store import address, ndjson, people, suppressions_csv
from tests.kit.upstream import FakeUpstream

TRIAL = {"name": "trial", "class": "marketing", "purpose": "offers", "mode": "observe"}


@contextmanager
def in_use(relay: RelayProcess) -> Iterator[None]:
    """Keep sending mail of every kind until the end of the block."""
    enough = threading.Event()

    def send() -> None:
        while not enough.is_set():
            for name in (*people(), "complained", "bounced", "unknown"):
                relay.send(marketing(to=address(name)), address(name))
            relay.send(marketing(unsubscribe=None), address("consent"))
            relay.send(message(stream="receipts"), address("unknown"), sender="orders@shop.example")
            relay.send(marketing(), address("withdrawn"), listener="trial")
            enough.wait(0.5)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        enough.set()
        sender.join()


def network(root: Path) -> dict[str, Any]:
    """A listener behind a balancer, with TLS and AUTH."""
    pair = Authority(root).issue("relay.example")
    return {
        "name": "network",
        "protocol": "smtp",
        "address": f"{LOOPBACK}:{free_port()}",
        "streams": ["receipts"],
        "default_stream": "receipts",
        "tls": "implicit",
        "certificate": str(pair.certificate),
        "private_key": str(pair.key),
        "auth": "required",
        "proxy_protocol": True,
        "proxy_trusted": ["10.0.0.0/8"],
    }


def others(root: Path) -> dict[str, Any]:
    """Users, webhooks and API tokens."""
    secret = root / "crm.secret"
    secret.touch(0o600)
    secret.write_text(f"{SECRET_LINE}\n")
    return {
        "auth": {"users": str(root / "users")},
        "webhook": [
            {
                "name": "crm",
                "url": f"http://{LOOPBACK}:{free_port()}/hook",
                "secret_file": str(secret),
            }
        ],
        "token": [{"name": "crm", "sha256": "0" * 64, "may": ["check"]}],
        "partner": [{"name": "firm", "key_file": str(root / "firm.key")}],
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    before = running()
    root = tmp_path_factory.mktemp("watched")
    with FakeUpstream() as upstream:
        listeners = relay_config(root, upstream.address)["listener"]
        trial = {"name": "trial", "protocol": "smtp", "streams": ["trial"]}
        trial |= {"address": f"{LOOPBACK}:{free_port()}", "default_stream": "trial"}
        config = {
            "listener": [*listeners, trial, network(root)],
            "stream": [*STREAMS, TRIAL],
            "web": {},
        }
        relay = RelayProcess(root, upstream.address, config | others(root))
        try:
            now = datetime.now(UTC)
            relay.must("partner", "key", "firm")
            relay.command("user", "add", "shop", stdin=b"a password of the shop\n")
            relay.fill(ndjson(now), suppressions_csv(now))
            relay.start()
            target = relay.url.removeprefix("http://")
            with in_use(relay), Prometheus(Path(root / "prometheus"), target) as prometheus:
                yield Watched(relay, prometheus)
        finally:
            kill_all(running() - before)
