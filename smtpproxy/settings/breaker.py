"""The bounds of what may be heard of a stream."""

from dataclasses import dataclass

from smtpproxy.policy.breaker import Bound, BreakerRules, Heard
from smtpproxy.settings.amounts import DAY, Count, Duration, Share


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """From what shares of the messages sent within the window a stream is warned of or paused.

    Shares are parts per million; None is never.
    """

    window: Duration = 7 * DAY
    minimum_messages: Count = 500  # sent within the window: with fewer nothing follows
    minimum_reports: Count = 3
    complaints_warn: Share = 1_000
    complaints_pause: Share = 3_000
    dead_addresses_warn: Share = 20_000
    dead_addresses_pause: Share = 50_000
    unsubscribes_warn: Share = 20_000
    blocks_warn: Share = 20_000
    resume_after: Duration | None = None  # None: a person resumes it

    @property
    def rules(self) -> BreakerRules:
        return BreakerRules(
            {
                Heard.COMPLAINT: Bound(self.complaints_warn, self.complaints_pause),
                Heard.DEAD_ADDRESS: Bound(self.dead_addresses_warn, self.dead_addresses_pause),
                Heard.UNSUBSCRIBE: Bound(self.unsubscribes_warn),
                Heard.BLOCK: Bound(self.blocks_warn),
            },
            self.minimum_messages,
            self.minimum_reports,
        )
