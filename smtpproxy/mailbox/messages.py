"""What is on record about a message that came back: in this relay's journal, or in that of another
relay, which is asked through the shared store."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smtpproxy.events import time_of
from smtpproxy.settings import RetentionSettings, Settings
from smtpproxy.sinks.audit.reader import decision
from smtpproxy.store import open_asked_messages
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.journals import AskedMessages
from smtpproxy.store.records import StoreUnavailable

_RETENTION = RetentionSettings()


def on_record(audit: Path, id: str) -> SentMessage | None:
    """Return what the journal in that folder says about a message. Raises OSError."""
    decided = decision(audit, id)
    if decided is None:
        return None
    recipients = tuple(recipient.canonical for recipient in decided.recipients)
    return SentMessage(decided.client, decided.reverse_path, recipients)


@dataclass(eq=False)
class Messages:
    """Finds messages by the id of their decision."""

    audit: Path
    others: AskedMessages | None = None
    _: KW_ONLY
    now: Callable[[], datetime]
    retention: RetentionSettings = _RETENTION

    def __post_init__(self) -> None:
        self._asked: set[str] = set()

    @classmethod
    def of(cls, settings: Settings) -> "Messages":
        """The messages of a relay; close them after use."""
        audit, others = settings.server.state_dir / "audit", open_asked_messages(settings.store)
        now = lambda: datetime.now(UTC)  # noqa: E731
        return cls(audit, others, now=now, retention=settings.retention)

    def may_be_elsewhere(self, id: str) -> bool:
        """Whether another relay may know it; for older messages the index does not say which one to
        ask."""
        if self.others is None:
            return False
        since = self.retention.indexed_since(self.now())
        return datetime.fromtimestamp(time_of(id) / 1000, UTC) >= since

    def longest_wait(self, id: str) -> timedelta:
        """How long a record may be missing and yet be found later.

        Our own may be missing because of a late mount or a restore. Another relay may be off for
        days: as long as mail servers commonly retry (RFC 5321 4.5.4.1).
        """
        return timedelta(days=5) if self.may_be_elsewhere(id) else timedelta(hours=1)

    def here(self, id: str) -> SentMessage | None:
        """Return what this relay has on record. Raises OSError."""
        return on_record(self.audit, id)

    async def elsewhere(self, ids: Collection[str]) -> Mapping[str, SentMessage]:
        """Ask the other relays; return their answers so far. Raises StoreUnavailable."""
        asked = {id for id in ids if self.may_be_elsewhere(id)}
        if self.others is None or not asked:
            return {}
        self._asked |= asked
        return await self.others.ask(asked, self.now())

    async def used(self, ids: Collection[str]) -> None:
        """Remove questions and answers; if that fails, they expire after a while."""
        asked = self._asked.intersection(ids)
        if self.others is not None and asked:
            with suppress(StoreUnavailable):
                await self.others.used(asked)
                self._asked -= asked

    def close(self) -> None:
        if self.others is not None:
            self.others.close()
