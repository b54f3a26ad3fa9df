"""`[[token]]` and `[[webhook]]`: what they become, and what deserves a look."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from smtpproxy.config import models
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.settings import Settings, TokenSettings, WebhookSettings


def tokens(tables: Sequence[models.Token]) -> tuple[TokenSettings, ...]:
    return tuple(
        TokenSettings(t.name, t.sha256, frozenset(t.may), t.requests_per_minute) for t in tables
    )


def webhooks(
    tables: Sequence[models.Webhook], books: Iterable[Rulebook]
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
