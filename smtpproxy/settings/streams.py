"""The tables `[[stream]]` and `[policy]`: what mail there is, and what holds for all of it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from smtpproxy.policy.model import (
    Alignment,
    ExistingUnsubscribe,
    Mode,
    Nature,
    Stream,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.settings.amounts import (
    Count,
    Duration,
    FrequencyCap,
)
from smtpproxy.settings.brands import Labels
from smtpproxy.settings.names import (
    ListId,
    Mailbox,
    Name,
    Passage,
    Purpose,
    Word,
)
from smtpproxy.settings.places import (
    Domain,
    HelpUrl,
)
from smtpproxy.toml_tables import Bounds, Key

TrialSize = Annotated[int, Bounds(10, 100_000)]

Class = Literal["marketing", "transactional", "permission"]


STREAM = Stream("")
"""What holds for a stream of which nothing is said: the defaults that need no rulebook."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a stream is declared to be; with its rulebook it becomes a `policy.model.Stream`."""

    name: Annotated[Name, Key(example="offers")]
    stream_class: Annotated[Class, Key("class", example="marketing")]
    brand: Name | None = None  # None, in the file: the only one there is
    label: Labels | None = None  # what people are told that it is, by language
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
    tracking_pixels: TrackingPixels | None = None  # None: as all streams of its class


@dataclass(frozen=True, slots=True)
class PolicySettings:
    rulebook: str = STREAM.rulebook
    mode: Mode = STREAM.mode
    on_mixed: Literal["refuse", "split"] = "refuse"
    frequency_cap: FrequencyCap | None = None  # of all marketing messages to a person
    imprint: tuple[Passage, ...] = ()  # of streams whose rulebook asks for one
    tracking_pixels: TrackingPixels = TrackingPixels.OBSERVE  # on marketing streams
    help_url: HelpUrl | None = None  # of a page about each reason: what replies end in
    check_recipient_domain: bool = False  # whether it says that it takes no mail (RFC 7505)
