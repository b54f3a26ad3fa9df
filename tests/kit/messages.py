"""Messages as apps send them: valid ones, which tests spoil as they like."""

import itertools
from collections.abc import Sequence

_numbers = itertools.count(1)

UNSUBSCRIBE = "<https://unsubscribe.shop.example/u/4aP1>, <mailto:stop@shop.example>"


def marketing(
    *,
    sender: str = "Shop <news@shop.example>",
    to: str = "jeanne@people.example",
    subject: str = "New shoes",
    unsubscribe: str | None = UNSUBSCRIBE,
    one_click: str | None = "List-Unsubscribe=One-Click",
    stream: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: str = "New shoes are in.\r\n\r\nNo more of this: https://shop.example/stop\r\n",
    message_id: str | None = None,
) -> bytes:
    """A complete bulk message with CRLF line ends; None omits a field."""
    fields = [
        ("List-Unsubscribe", unsubscribe),
        ("List-Unsubscribe-Post", one_click),
        *headers,
    ]
    return message(
        sender=sender,
        to=to,
        subject=subject,
        stream=stream,
        headers=[(name, value) for name, value in fields if value is not None],
        body=body,
        message_id=message_id,
    )


def message(
    *,
    sender: str | None = "Shop <orders@shop.example>",
    to: str = "jeanne@people.example",
    subject: str = "Your receipt",
    stream: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: str = "You paid 12 euros.\r\n",
    message_id: str | None = None,
) -> bytes:
    """A message for one person, like a receipt, without unsubscribe fields."""
    fields = [
        ("From", sender),
        ("To", to),
        ("Subject", subject),
        ("Date", "Mon, 05 Jan 2026 09:00:00 +0000"),
        ("Message-ID", message_id or f"<{next(_numbers)}@shop.example>"),
        ("X-Mail-Stream", stream),
        *headers,
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in fields if value is not None)
    return (head + "\r\n" + body).encode("utf-8", "surrogateescape")
