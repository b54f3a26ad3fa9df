"""Postfix's side of policy delegation: sends requests, and reads the action.

Written from SMTPD_POLICY_README, not from smtpproxy's codec.
"""

import contextlib
import itertools
import socket
from collections.abc import Iterator, Mapping

from tests.kit.ports import LOOPBACK

SENDER = "news@shop.example"
_numbers = itertools.count(1)


def request(**attributes: str) -> bytes:
    """One request with the attributes of Postfix 3.7."""
    told = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "protocol_name": "ESMTP",
        "client_address": "192.0.2.9",
        "client_name": "client.example",
        "client_port": "4321",
        "reverse_client_name": "client.example",
        "server_address": "192.0.2.1",
        "server_port": "25",
        "helo_name": "client.example",
        "sender": SENDER,
        "recipient": "",
        "recipient_count": "0",
        "queue_id": "",
        "instance": "123.456.789",
        "size": "0",
        "etrn_domain": "",
        "stress": "",
        "sasl_method": "",
        "sasl_username": "",
        "sasl_sender": "",
        "ccert_subject": "",
        "ccert_issuer": "",
        "ccert_fingerprint": "",
        "encryption_protocol": "",
        "encryption_keysize": "0",
        "policy_context": "",
    }
    told |= attributes
    return encode(told)


def encode(attributes: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
    return lines.encode() + b"\n"


class PolicyClient:
    """One connection, and the message that its requests are about."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._instance = ""
        self._sender = SENDER
        self._told: dict[str, str] = {}
        self._buffer = b""

    def mail(self, sender: str = SENDER, **told: str) -> None:
        """Begin a message; `told` are attributes for all its requests."""
        self._instance, self._sender, self._told = f"4f.{next(_numbers)}", sender, told

    def rcpt(self, recipient: str, **more: str) -> str:
        return self.ask(protocol_state="RCPT", recipient=recipient, **more)

    def end(self, *accepted: str, state: str = "END-OF-MESSAGE", **more: str) -> str:
        """The end of a message to `accepted`; like Postfix, name a single recipient only."""
        named = accepted[0] if len(accepted) == 1 else ""
        count = str(len(accepted))
        return self.ask(protocol_state=state, recipient=named, recipient_count=count, **more)

    def ask(self, **attributes: str) -> str:
        """The action."""
        base = {"instance": self._instance, "sender": self._sender, **self._told}
        self.socket.sendall(request(**(base | attributes)))
        return self.action()

    def action(self) -> str:
        """The next action; raises EOFError at the end of the connection."""
        while b"\n\n" not in self._buffer:
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        whole, _, self._buffer = self._buffer.partition(b"\n\n")
        name, _, action = whole.decode().partition("=")
        assert name == "action"
        assert "\n" not in action
        return action


@contextlib.contextmanager
def policy_client(address: int | str, timeout: float = 10.0) -> Iterator[PolicyClient]:
    """A connection to a port, or to a UNIX socket by path, with a message begun."""
    if isinstance(address, int):
        connection = socket.create_connection((LOOPBACK, address), timeout=timeout)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(address)
    with connection:
        client = PolicyClient(connection)
        client.mail()
        yield client
