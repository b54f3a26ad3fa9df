"""What the pipeline works with: all that it needs from outside, passed in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from smtpproxy.events import Decided, Emit, Relayed, Stage
from smtpproxy.policy.model import Rulebook
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.store.mailings import MailingLog
from smtpproxy.store.protocols import FactReader


class AuditLog(Protocol):
    """Where decisions are put on record. `commit` raises AuditUnavailable."""

    async def commit(self, decided: Decided) -> None: ...

    def outcome(self, relayed: Relayed) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The surroundings of a transaction."""

    hostname: str
    stream_header: str
    on_mixed: Literal["refuse", "split"]
    rulebooks: Mapping[str, Rulebook]
    store: FactReader
    upstream: UpstreamPool
    audit: AuditLog
    emit: Emit
    now: Callable[[], datetime]  # UTC
    ticks: Callable[[], float]  # seconds, for durations only
    new_id: Callable[[], str]
    source_header: str | None = None
    mailings: MailingLog | None = None  # where no stream counts what it sends


def spend(seconds: dict[Stage, float], stage: Stage, duration: float) -> None:
    """Add time to a stage of one transaction."""
    seconds[stage] = seconds.get(stage, 0.0) + duration
