"""What the pipeline works with: all that it needs from outside, passed in."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from smtpproxy.events import Decided, Emit, Relayed, Stage
from smtpproxy.pipeline.way_out import Links
from smtpproxy.policy.model import DEFAULT_STREAM, Rulebook, Stream
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.store.alike import AlikeLog
from smtpproxy.store.mailings import MailingLog
from smtpproxy.store.protocols import FactReader

if TYPE_CHECKING:  # what signs or asks the DNS is loaded where something does
    from smtpproxy.pipeline.organisations import Organisations
    from smtpproxy.pipeline.recipient_domains import RecipientDomains
    from smtpproxy.relay.dkim.signing import Signer
    from smtpproxy.relay.dkim.verifying import Verifier


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
    links: Links | None = None  # where no stream adds a way out
    signer: "Signer | None" = None  # where there are no keys
    verifier: "Verifier | None" = None  # where no stream asks for signatures
    alike: AlikeLog | None = None  # where no stream counts who is sent one text
    undeclared: Stream = DEFAULT_STREAM  # for mail that declares nothing, or falsely
    domains: "RecipientDomains | None" = None  # where the recipients' domains are not asked
    organisations: "Organisations | None" = None  # where no stream asks for relaxed alignment
    threads: Executor | None = None  # for long work; the loop has its own where it is None


def spend(seconds: dict[Stage, float], stage: Stage, duration: float) -> None:
    """Add time to a stage of one transaction."""
    seconds[stage] = seconds.get(stage, 0.0) + duration
