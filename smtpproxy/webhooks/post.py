"""One attempt to deliver: an HTTPS POST with a signature, and what came of it."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import httpx

from smtpproxy.settings import WebhookSettings
from smtpproxy.webhooks.signature import signature

Kind = Literal["delivered", "refused", "failed", "redirected", "unreachable", "timeout", "gone"]

KINDS: tuple[Kind, ...] = (
    "delivered",
    "refused",
    "failed",
    "redirected",
    "unreachable",
    "timeout",
    "gone",
)
_READ = 65_536  # octets of an answer: its text is not looked at


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: Kind
    text: str  # for people: never what the receiver wrote
    retry_after: timedelta | None = None


class Poster:
    """The HTTP client of one webhook. Follows no redirect and no environment variable.

    Raises OSError (of which ssl.SSLError is one) when the ca_file cannot be used.
    """

    def __init__(
        self,
        webhook: WebhookSettings,
        secrets: tuple[bytes, ...],
        *,
        now: Callable[[], datetime],
        user_agent: str,
    ) -> None:
        self._webhook = webhook
        self._secrets = secrets
        self._now = now
        trusted = None if webhook.ca_file is None else str(webhook.ca_file)
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=trusted),
            follow_redirects=False,
            trust_env=False,
            timeout=webhook.timeout,
            limits=httpx.Limits(max_connections=2, keepalive_expiry=60),
            headers={"user-agent": user_agent, "content-type": "application/json"},
        )

    async def post(self, id: str, body: bytes) -> Outcome:
        """Send it once; never raises for what a receiver does."""
        timestamp = int(self._now().timestamp())
        headers = {
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secrets, id, timestamp, body),
        }
        try:
            # httpx counts each step; a receiver that drips must end too.
            async with asyncio.timeout(self._webhook.timeout):
                return await self._send(headers, body)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome("timeout", f"no whole answer within {self._webhook.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Outcome("unreachable", f"no connection, or lost: {_reason(error)}")

    async def _send(self, headers: dict[str, str], body: bytes) -> Outcome:
        request = self._client.stream("POST", self._webhook.url, headers=headers, content=body)
        async with request as response:
            outcome = _outcome(response)
            read = 0
            async for chunk in response.aiter_raw():  # to the end, so that it can be used again
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
        return Outcome("gone", "HTTP 410: the receiver wants no more")
    if 300 <= status < 400:
        return Outcome("redirected", f"HTTP {status}: redirects are not followed; mend the url")
    seconds = response.headers.get("retry-after", "")
    asked = timedelta(seconds=int(seconds[:6])) if seconds.isascii() and seconds.isdigit() else None
    return Outcome("refused" if status < 500 else "failed", f"HTTP {status}", asked)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
