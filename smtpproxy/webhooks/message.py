"""What a webhook is told: changes that it wants, in one message."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from smtpproxy.settings import WebhookSettings
from smtpproxy.store.exchange.suppression_record import change_object
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import SuppressionChange

TYPE = "suppression.changes"


@dataclass(frozen=True, slots=True)
class Message:
    """One message; its id and body are the same at every try."""

    id: str
    body: bytes
    changes: int
    oldest_at: datetime  # of the changes in it
    end: int  # the position once it is delivered


def wants(webhook: WebhookSettings, change: SuppressionChange) -> bool:
    return (
        change.action in webhook.events
        and (not webhook.scopes or change.scope in webhook.scopes)
        and (not webhook.origins or change.origin in webhook.origins)
    )


def message(id: str, changes: Sequence[SuppressionChange], end: int) -> Message:
    """Return the message of some changes, at least one.

    Its time is that of the newest change, not of the delivery: a message that is sent
    again is the same, octet for octet.
    """
    body = {
        "type": TYPE,
        "timestamp": written_time(changes[-1].at),
        "data": {"changes": [change_object(change) for change in changes], "next": end},
    }
    return Message(id, msgspec.json.encode(body), len(changes), changes[0].at, end)
