"""The table `[[webhook]]`: who is told, and about what."""

from dataclasses import dataclass
from typing import Annotated, Literal

from smtpproxy.policy.model import Origin
from smtpproxy.settings.amounts import DAY, HOUR, Duration, duration
from smtpproxy.settings.names import Name, Scope
from smtpproxy.settings.places import File, WebhookUrl
from smtpproxy.toml import shown
from smtpproxy.toml_tables import AT_LEAST_ONE, Bounds, Key, Written

SHORTEST = 10.0  # seconds


def summary_period(value: object) -> float:
    """Return how many seconds a summary covers."""
    seconds = duration(value)
    if not SHORTEST <= seconds <= DAY:
        raise ValueError(f"{shown(value)} is not from 10s to 1d")
    return seconds


SummaryPeriod = Annotated[float, Written(summary_period)]
Event = Literal["added", "moved", "lifted", "streams", "feedback", "refusals"]


@dataclass(frozen=True, slots=True)
class WebhookSettings:
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
