"""The messages to a webhook, the pauses between attempts, and one attempt: an HTTPS POST."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Literal

import httpx
import msgspec

from smtpproxy.settings import WebhookSettings
from smtpproxy.store.exchange.suppression_record import change_object
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.propagation import (
    LoggedChange,
    LoggedEvent,
    StreamChange,
    SuppressionChange,
    Topic,
)
from smtpproxy.store.streams import event_object
from smtpproxy.tls import trusting
from smtpproxy.webhooks import signature

SUPPRESSIONS, STREAMS = "suppression.changes", "stream.changes"
_TYPES: Mapping[Topic, str] = {
    "campaign": STREAMS,
    "feedback": "feedback.reports",
    "refusals": "refusals.summaries",
}


class Message(msgspec.Struct, frozen=True):
    """One message; its id and body are the same in every attempt."""

    id: str
    body: bytes
    changes: int
    oldest_at: datetime  # of its changes
    end: int  # position after delivery


def wants(webhook: WebhookSettings, change: LoggedChange) -> bool:
    if isinstance(change, LoggedEvent):
        if change.topic == "refusals" and change.data["period"] != webhook.refusals_every:
            return False
        return ("streams" if change.topic == "campaign" else change.topic) in webhook.events
    if isinstance(change, StreamChange):
        return "streams" in webhook.events and change.event is not None
    return (
        change.action in webhook.events
        and (not webhook.scopes or change.scope in webhook.scopes)
        and (not webhook.origins or change.origin in webhook.origins)
    )


def of_one_type(changes: Sequence[LoggedChange]) -> Sequence[LoggedChange]:
    """Return the first changes of one type, which fit into one message."""
    return list(takewhile(lambda one: _type(one) == _type(changes[0]), changes))


def _type(change: LoggedChange) -> str:
    if isinstance(change, LoggedEvent):
        return _TYPES[change.topic]
    return STREAMS if isinstance(change, StreamChange) else SUPPRESSIONS


def message(id: str, changes: Sequence[LoggedChange], end: int) -> Message:
    """Return the message of some changes, at least one, of one type.

    Its time is that of the newest change, not of the delivery, so that a repeated message is
    identical.
    """
    body = {
        "type": _type(changes[0]),
        "timestamp": written_time(changes[-1].at),
        "data": {"changes": [_object(change) for change in changes], "next": end},
    }
    return Message(id, msgspec.json.encode(body), len(changes), changes[0].at, end)


def _object(change: LoggedChange) -> dict[str, object]:
    if isinstance(change, SuppressionChange):
        return change_object(change)
    if isinstance(change, LoggedEvent):
        return {"seq": change.seq, **change.data}
    return {"seq": change.seq, **(event_object(change.event) if change.event else {})}


FIRST = timedelta(seconds=1)
LONGEST = timedelta(hours=1)
_MOST_DOUBLINGS = 20


def pause(failures: int, random: float, asked: timedelta | None = None) -> timedelta:
    """Return how long to wait after a number of failures in a row (1 or more).

    It doubles from a second to an hour, with half of it random (`random`, 0 to 1), so that a
    receiver that returns is not flooded. A longer Retry-After is respected, up to an hour.
    """
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    whole = min(FIRST * (1 << doublings), LONGEST)
    wait = whole / 2 + whole / 2 * random
    return wait if asked is None else max(wait, min(asked, LONGEST))


Kind = Literal["delivered", "refused", "failed", "redirected", "unreachable", "timeout", "gone"]

_READ = 65_536  # octets of an answer, whose text is not used


class Outcome(msgspec.Struct, frozen=True):
    kind: Kind
    text: str  # for people; never the receiver's own text
    retry_after: timedelta | None = None


_trusting = cache(trusting)  # webhooks share a context, as each takes a megabyte


@dataclass(eq=False)
class Poster:
    """The HTTP client of one webhook. Follows no redirects, uses no environment variables.

    Raises OSError (of which ssl.SSLError is one) when the ca_file cannot be used.
    """

    webhook: WebhookSettings
    secrets: tuple[bytes, ...]
    now: Callable[[], datetime]
    user_agent: str

    def __post_init__(self) -> None:
        webhook = self.webhook
        self._client = httpx.AsyncClient(
            verify=_trusting(webhook.ca_file),
            follow_redirects=False,
            trust_env=False,
            timeout=webhook.timeout,
            limits=httpx.Limits(max_connections=2, keepalive_expiry=60),
            headers={"user-agent": self.user_agent, "content-type": "application/json"},
        )

    async def post(self, id: str, body: bytes) -> Outcome:
        """Send a message once; never raises for what a receiver does."""
        timestamp = int(self.now().timestamp())
        headers = {
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self.secrets, id, timestamp, body),
        }
        try:
            # httpx limits each step only; this also stops a receiver that answers slowly.
            async with asyncio.timeout(self.webhook.timeout):
                return await self._send(headers, body)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome("timeout", f"no complete answer within {self.webhook.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Outcome("unreachable", f"no connection, or lost: {_reason(error)}")

    async def _send(self, headers: dict[str, str], body: bytes) -> Outcome:
        request = self._client.stream("POST", self.webhook.url, headers=headers, content=body)
        async with request as response:
            outcome = _outcome(response)
            read = 0
            async for (
                chunk
            ) in response.aiter_raw():  # to the end, so that the connection can be reused
                read += len(chunk)
                if read > _READ:
                    break
        return outcome

    async def close(self) -> None:
        await self._client.aclose()


def _outcome(response: httpx.Response) -> Outcome:
    status = response.status_code
    if 200 <= status < 300:
        return Outcome("delivered", f"HTTP {status}")
    if status == 410:
        return Outcome("gone", "HTTP 410: the receiver wants no more messages")
    if 300 <= status < 400:
        return Outcome("redirected", f"HTTP {status}: redirects are not followed; correct the url")
    seconds = response.headers.get("retry-after", "")
    asked = timedelta(seconds=int(seconds[:6])) if seconds.isascii() and seconds.isdigit() else None
    return Outcome("refused" if status < 500 else "failed", f"HTTP {status}", asked)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
