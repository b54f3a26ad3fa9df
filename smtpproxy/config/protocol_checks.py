"""Which keys of a listener mean something in the protocol that it speaks."""

from collections.abc import Iterator, Mapping
from typing import Any

from smtpproxy.config.faults import Fault
from smtpproxy.config.models import Listener
from smtpproxy.config.tables import tables

_EVERYWHERE = frozenset(
    {
        "name",
        "protocol",
        "address",
        "streams",
        "default_stream",
        "max_connections",
        "max_connections_per_address",
        "connection_rate",
        "command_timeout",
        "data_timeout",
    }
)
_SMTP = frozenset(Listener.model_fields) - {"origin"}
_ASKED = _EVERYWHERE | {"max_recipients", "max_refused_recipients", "origin", "login_trusted"}
_MEANINGFUL = {"smtp": _SMTP, "lmtp": _SMTP, "milter": _ASKED, "policy": _ASKED}


def protocol_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the keys that somebody set and that would do nothing."""
    for index, listener in tables(document, "listener"):
        protocol = listener.get("protocol", "smtp")
        meaningful = _MEANINGFUL.get(protocol) if isinstance(protocol, str) else None
        if meaningful is None:
            continue
        for key, field in Listener.model_fields.items():
            if key in meaningful or key not in listener or listener[key] == field.default:
                continue
            text = f'does nothing with protocol = "{protocol}": leave it out'
            yield Fault(("listener", index, key), text)
