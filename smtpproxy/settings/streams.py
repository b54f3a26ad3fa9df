"""The tables `[[stream]]`, `[policy]`, `[breaker]` and `[[webhook]]`: kinds of mail, what applies
to all of them, how much negative feedback is allowed, and who is told."""

from typing import Annotated, Literal

from msgspec import Struct

from smtpproxy.policy.breaker import Bound, BreakerRules, Feedback
from smtpproxy.policy.campaign import Trial
from smtpproxy.policy.model import (
    Alignment,
    ExistingUnsubscribe,
    Mode,
    Nature,
    Origin,
    Stream,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.settings.amounts import DAY, HOUR, Count, Duration, FrequencyCap, Share, duration
from smtpproxy.settings.brands import Labels
from smtpproxy.settings.names import ListId, Mailbox, Name, Passage, Purpose, Scope, Word
from smtpproxy.settings.places import Domain, File, HelpUrl, WebhookUrl
from smtpproxy.toml import shown
from smtpproxy.toml_tables import AT_LEAST_ONE, Bounds, Key, Written

TrialSize = Annotated[int, Bounds(10, 100_000)]

Class = Literal["marketing", "transactional", "permission"]


STREAM = Stream("")
"""The defaults of a stream that do not depend on its rulebook."""


class StreamSettings(Struct, frozen=True):
    """A stream as configured; with its rulebook it becomes a `policy.model.Stream`."""

    name: Annotated[Name, Key(example="offers")]
    stream_class: Annotated[Class, Key("class", example="marketing")]
    brand: Name | None = None  # None, in the file: the only one
    label: Labels | None = None  # its name for people, by language
    purpose: Purpose | None = None
    nature: Nature = STREAM.nature
    products: frozenset[Word] = STREAM.products
    topics: frozenset[Word] = STREAM.topics
    from_domains: frozenset[Domain] = frozenset()
    unsubscribe: Literal["require", "add"] = "require"
    existing_unsubscribe: ExistingUnsubscribe = STREAM.existing_unsubscribe
    unsubscribe_scope: Literal["purpose", "brand", "marketing"] = "purpose"
    unsubscribe_mailto: Mailbox | None = None
    list_id: ListId | None = None
    one_click: Literal["required", "optional"] = "required"
    rulebook: str | None = None
    mode: Mode | None = None
    paused: bool = False
    first_contact_notice: bool = False
    undeclared_bulk: UndeclaredBulk = STREAM.undeclared_bulk
    bulk_recipients: Count | None = None
    bulk_window: Duration = STREAM.bulk_window
    max_recipients: Count | None = None
    refuse_at: Literal["rcpt", "data"] = "rcpt"
    frequency_cap: FrequencyCap | None = None
    body_optout: bool = False
    imprint: tuple[Passage, ...] = ()
    source_statement: tuple[Passage, ...] = ()
    honest_subject: bool = False
    alignment: Alignment = STREAM.alignment
    check_dkim: bool = True
    max_snapshot_age: Duration | None = None
    campaign_trial: TrialSize | None = None  # recipients of a new campaign; None: no trial
    verp: bool = False
    tracking_pixels: TrackingPixels | None = None  # None: as for its class


class PolicySettings(Struct, frozen=True):
    rulebook: str = STREAM.rulebook
    mode: Mode = STREAM.mode
    on_mixed: Literal["refuse", "split"] = "refuse"
    frequency_cap: FrequencyCap | None = None  # of all marketing messages to a person
    imprint: tuple[Passage, ...] = ()  # for streams whose rulebook requires one
    tracking_pixels: TrackingPixels = TrackingPixels.OBSERVE  # on marketing streams
    help_url: HelpUrl | None = None  # base of a page about each reason, for replies
    check_recipient_domain: bool = False  # for a null MX (RFC 7505)


class BreakerSettings(Struct, frozen=True):
    """The shares of recently sent messages at which a stream gets a warning or a pause.

    Shares are parts per million; None is never.
    """

    window: Duration = 7 * DAY
    minimum_messages: Count = 500  # sent within the window; fewer have no effect
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
    silent_after: Duration = 365 * DAY  # without a sign of life, until one is a stranger

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
                Feedback.COMPLAINT: Bound(self.complaints_warn, self.complaints_pause),
                Feedback.DEAD_ADDRESS: Bound(self.dead_addresses_warn, self.dead_addresses_pause),
                Feedback.UNSUBSCRIBE: Bound(self.unsubscribes_warn),
                Feedback.BLOCK: Bound(self.blocks_warn),
            },
            self.minimum_messages,
            self.minimum_reports,
        )


SHORTEST = 10.0  # seconds


def summary_period(value: object) -> float:
    """Return how many seconds a summary covers."""
    seconds = duration(value)
    if not SHORTEST <= seconds <= DAY:
        raise ValueError(f"{shown(value)} is not between 10s and 1d")
    return seconds


SummaryPeriod = Annotated[float, Written(summary_period)]
Event = Literal["added", "moved", "lifted", "streams", "feedback", "refusals"]


class WebhookSettings(Struct, frozen=True):
    """A receiver of changes to suppressions and other events. An empty filter passes everything."""

    name: Annotated[Name, Key(example="crm")]
    url: Annotated[WebhookUrl, Key(example="https://crm.example.com/hooks/suppressions")]
    secret_file: Annotated[File, Key(example="/etc/smtpproxy/crm.secret")]
    events: Annotated[frozenset[Event], Key(example=("added", "lifted")), AT_LEAST_ONE] = frozenset(
        {"added", "moved", "lifted"}
    )
    scopes: frozenset[Scope] = frozenset()
    origins: frozenset[Origin] = frozenset()
    ca_file: File | None = None  # None: the system's authorities
    batch: Annotated[int, Bounds(1, 1000)] = 500  # changes in one message
    timeout: Duration = 10.0  # a whole delivery
    give_up_after: Duration = DAY  # of failures; then a message is a dead letter
    refusals_every: SummaryPeriod = HOUR
    deadline: Duration = 0.0  # for telling a change; 0, in the file: by the rulebooks
