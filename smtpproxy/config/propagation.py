"""`[[token]]` and `[[webhook]]`: how they are written, and what they become."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from smtpproxy.config.values import purpose, shown
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.settings import Settings, TokenSettings, WebhookSettings

if TYPE_CHECKING:
    from smtpproxy.config import models

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def sha256(value: object) -> str:
    """Return the SHA-256 of a token, in lower-case hexadecimal."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(
            "must be the SHA-256 of a token, 64 hexadecimal digits, never the token itself:"
            " `smtpproxy token` makes both"
        )
    return value.lower()


def webhook_url(value: object) -> str:
    """Return where changes are delivered: https, or http on this machine."""
    wrong = 'must be an https URL such as "https://crm.example.com/hooks/suppressions"'
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(wrong)
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port  # a wrong port is found only when it is read
    except ValueError:
        raise ValueError(wrong) from None
    if " " in value or not host or url.fragment:
        raise ValueError(wrong)
    if url.username is not None:
        raise ValueError("must hold no user name or password: the signature says who we are")
    if url.scheme != "https" and not (url.scheme == "http" and host in _LOOPBACK):
        raise ValueError(f"{wrong}; http:// is for receivers on this machine alone")
    return value


def scope(value: object) -> str:
    """Return the scope of suppressions: `all`, `marketing` or `purpose:NAME`."""
    if isinstance(value, str) and value in ("all", "marketing"):
        return value
    if isinstance(value, str) and value.startswith("purpose:"):
        return f"purpose:{purpose(value.removeprefix('purpose:'))}"
    raise ValueError(f'{shown(value)} is not a scope: "all", "marketing" or "purpose:NAME"')


def tokens(tables: "Sequence[models.Token]") -> tuple[TokenSettings, ...]:
    return tuple(
        TokenSettings(t.name, t.sha256, frozenset(t.may), t.requests_per_minute) for t in tables
    )


def webhooks(
    tables: "Sequence[models.Webhook]", books: Iterable[Rulebook]
) -> tuple[WebhookSettings, ...]:
    """Return the webhooks; others have to know as soon as the strictest rulebook says."""
    strictest = min(_seconds(book.honour_within) for book in books)
    return tuple(
        WebhookSettings(
            table.name,
            table.url,
            Path(table.secret_file),
            frozenset(table.events),
            frozenset(table.scopes),
            frozenset(table.origins),
            None if table.ca_file is None else Path(table.ca_file),
            table.batch,
            table.timeout,
            table.give_up_after,
            strictest if table.deadline is None else table.deadline,
        )
        for table in tables
    )


def _seconds(period: Period) -> float:
    """Return the shortest that it can last: a business day is a day."""
    hours = period.count if period.unit is Unit.HOURS else 24 * period.count
    return timedelta(hours=hours).total_seconds()


def warnings(settings: Settings) -> Iterator[str]:
    """Yield what deserves a second look, as `key.path: what and why`."""
    for webhook in settings.webhooks:
        where = f'webhook "{webhook.name}"'
        late = [
            f"{book.name} ({book.honour_within})"
            for book in settings.rulebooks.values()
            if _seconds(book.honour_within) < webhook.deadline
        ]
        if late:
            yield (
                f"{where}.deadline: later than the honour_within of {', '.join(late)}:"
                " people who object must be obeyed by then"
            )
        if webhook.give_up_after > webhook.deadline:
            yield (
                f"{where}.give_up_after: later than its deadline, so a change that cannot be"
                " delivered is late before anybody looks at the dead letters"
            )
        if "added" not in webhook.events:
            yield f'{where}.events: without "added" nobody is told of who must not be mailed'
    if settings.tokens and settings.web is None:
        yield "token: there is no [web] address at which tokens could be used"
