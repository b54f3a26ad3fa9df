"""The bounds of what may be heard of a stream."""

from dataclasses import dataclass

from smtpproxy.policy.breaker import Bound, BreakerRules, Heard
from smtpproxy.policy.campaign import Trial
from smtpproxy.settings.amounts import DAY, HOUR, Count, Duration, Share


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
    trial_strangers: Share = 500_000  # of a new campaign's first recipients
    trial_dead_addresses: Share = 50_000
    trial_wait: Duration = 4 * HOUR  # for its other recipients
    silent_after: Duration = 365 * DAY  # without a sign of life somebody counts as a stranger

    def trial(self, recipients: int | None) -> Trial | None:
        """What a stream asks of new campaigns, each of so many first recipients."""
        if recipients is None:
            return None
        return Trial(
            recipients,
            self.trial_strangers,
            self.trial_dead_addresses,
            self.trial_wait,
            self.silent_after,
        )

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
