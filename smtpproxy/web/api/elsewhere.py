"""Decisions of other relays on the same PostgreSQL, as the index has them."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.access import Access
from smtpproxy.policy.model import Action, Reason
from smtpproxy.settings import Settings
from smtpproxy.store import decisions_elsewhere
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.journals import IndexQuery
from smtpproxy.web.api.operation import Time, about


class DecisionElsewhere(Struct, frozen=True):
    """A decision about one recipient by another relay, whose audit log has the record."""

    id: str
    at: Time
    stream: str
    verdict: Action
    reason: Reason
    observed: bool
    relay: Annotated[str, about("Its host name.")]
    file: str
    row: int


async def elsewhere(
    settings: Settings, access: Access, wanted: IndexQuery, limit: int
) -> Sequence[DecisionElsewhere]:
    """Return the newest of them that a token may see. Raises StoreUnavailable, OSError."""
    visible = replace(wanted, brands=access.brands)
    rows = await decisions_elsewhere(settings, visible, limit) or ()
    return [
        DecisionElsewhere(
            *(one.id, written_time(one.at), one.stream, one.verdict, one.reason),
            *(one.observed, one.host, one.file, one.line),
        )
        for one in rows
    ]
