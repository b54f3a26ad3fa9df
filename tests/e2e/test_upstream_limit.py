"""Two workers in front of an MTA that accepts few connections: Exim accepts 20 by default."""

import smtplib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.kit.exim import EximInstance
from tests.kit.messages import message
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream

pytestmark = [needs("exim"), pytest.mark.soak]


@pytest.mark.parametrize(("takes", "messages"), [(20, 60), (1, 12)])
def test_concurrent_clients_are_all_served(tmp_path: Path, takes: int, messages: int) -> None:
    """Connections once belonged to the first worker; the other answered 451."""
    start = Barrier(messages)
    port = free_port()

    def send(_: int) -> int:
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=60) as client:
            start.wait(30)
            client.ehlo()
            client.mail("orders@shop.example")
            code, _ = client.rcpt("jeanne@people.example")
            time.sleep(0.3)  # its connection to the MTA is in use
            return client.data(message())[0] if code == 250 else code

    with FakeUpstream() as mta:
        route = (
            "all:\n  driver = manualroute\n  transport = own\n  self = send\n"
            f"  route_list = * 127.0.0.1::{mta.port} byname\n"
        )
        config = {
            "server": {"workers": 2},
            "listener": [listener("till", "receipts", default="receipts")],
            "upstream": {"max_connections_per_address": 200},
        }
        exim = EximInstance(route, "", port, mta.address)
        settings = exim.root / "exim.conf"
        settings.write_text(f"smtp_accept_max = {takes}\n{settings.read_text()}")
        with (
            exim,
            RelayProcess(tmp_path, f"{LOOPBACK}:{port}", config) as relay,
            ThreadPoolExecutor(messages) as clients,
        ):
            assert set(clients.map(send, range(messages))) == {250}
