"""How much a listener's clients may send in a time: each address, and each credential."""

from collections.abc import Mapping
from typing import Literal

from smtpproxy.auth.authenticator import network_of
from smtpproxy.events import Limit
from smtpproxy.intake.rate_table import RateTable
from smtpproxy.settings import Credential, ListenerSettings, Rate

_OF_CREDENTIALS: Mapping[str, Limit] = {
    "message_rate": "credential_message_rate",
    "recipient_rate": "credential_recipient_rate",
}


class ClientRates:
    """The rates of one listener. An IPv6 client counts by its /64, as it has all of it."""

    def __init__(self, listener: ListenerSettings, table: RateTable) -> None:
        self._name = listener.name
        self._connections = listener.connection_rate
        self._messages = listener.message_rate
        self._recipients = listener.recipient_rate
        self._table = table

    def connection(self, peer: str) -> bool:
        """Whether another connection may come from there now."""
        rate = self._connections
        return rate is None or bool(self._table.take(self._key("connections", peer), rate))

    def message(self, peer: str, credential: Credential | None) -> Limit | None:
        """Count a message; which limit stands against it, or None."""
        own = None if credential is None else credential.message_rate
        return self._take("message_rate", own, self._messages, peer, credential, 1)[1]

    def recipients(
        self, peer: str, credential: Credential | None, count: int
    ) -> tuple[int, Limit | None]:
        """Count as many recipients as may be named now; also which limit stands against more."""
        own = None if credential is None else credential.recipient_rate
        return self._take("recipient_rate", own, self._recipients, peer, credential, count)

    def _take(
        self,
        limit: Literal["message_rate", "recipient_rate"],
        own: Rate | None,
        common: Rate | None,
        peer: str,
        credential: Credential | None,
        count: int,
    ) -> tuple[int, Limit | None]:
        """What the credential's `own` rate gives and the listener's does not is given back."""
        own_limit = _OF_CREDENTIALS[limit]
        stands: Limit | None = None
        own_key = "" if credential is None else f"{own_limit} {credential.name}"
        taken = count
        if own is not None:
            taken = self._table.take(own_key, own, count)
            stands = own_limit if taken < count else None
        if common is None or not taken:
            return taken, stands
        permitted = self._table.take(self._key(limit, peer), common, taken)
        if permitted < taken:
            stands = limit
            if own is not None:
                self._table.give_back(own_key, own, taken - permitted)
        return permitted, stands

    def _key(self, what: str, peer: str) -> str:
        return f"{self._name} {what} {network_of(peer)}"
