"""Settings of what is kept, and of who is told: store, retention, web, webhooks.

They are written as those in `smtpproxy.settings.mail` are.
"""

from dataclasses import dataclass
from datetime import time
from typing import Annotated, Literal

from smtpproxy.policy.model import Origin
from smtpproxy.policy.periods import months, years
from smtpproxy.settings.amounts import (
    DAY,
    MIB,
    Count,
    Duration,
    OpenPeriod,
    PeriodWithEnd,
    Size,
    SuppressionPeriod,
    TimeOfDay,
)
from smtpproxy.settings.names import Line, Name, Scope, Sha256
from smtpproxy.settings.places import (
    Address,
    File,
    IpAddress,
    Network,
    PublicUrl,
    StoreUrl,
    WebhookUrl,
)
from smtpproxy.toml_tables import AT_LEAST_ONE, DERIVED, Bounds, Key

Lines = Annotated[tuple[Line, ...], AT_LEAST_ONE]
Event = Literal["added", "moved", "lifted"]


@dataclass(frozen=True, slots=True)
class PartnerSettings:
    """Another sender whose suppressions count here too, and the key shared with it."""

    name: Annotated[Name, Key(example="shoes-ltd")]
    key_file: Annotated[File, Key(example="/etc/smtpproxy/shoes-ltd.key")]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    url: StoreUrl = ""  # empty, in the file alone: in `state_dir`
    timeout: Duration = 2.0  # a read or write that waits longer is a 451
    partners: Annotated[tuple[PartnerSettings, ...], DERIVED] = ()


@dataclass(frozen=True, slots=True)
class AuditSettings:
    sync: Literal["os", "disk"] = "os"
    segment_size: Size = 256 * MIB


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How long what is kept (rules A9, A17, A34, A35). None is for ever."""

    prospects: PeriodWithEnd = years(3)  # since collection, or the last positive or consent act
    customers: PeriodWithEnd = years(3)  # since the last dealing
    suppressions: SuppressionPeriod = years(3)  # since it was given, added, matched or held last
    lifted_suppressions: OpenPeriod = years(3)  # since it was lifted
    audit: PeriodWithEnd = years(5)  # since the decision
    changes: OpenPeriod = months(13)  # of the log that others read, since they were written
    enabled: bool = True  # the daily run
    at: TimeOfDay = time(3, 30)  # of the daily run, local


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What people are told of who processes their data and why (GDPR 15(1))."""

    name: Annotated[Line, Key(example="Example SA")]
    address: Annotated[Line, Key(example="1 rue de l'Exemple, 75001 Paris")]
    contact: Annotated[Line, Key(example="privacy@example.com")]  # for requests
    purposes: Annotated[Lines, Key(example=("offers by e-mail",))]
    recipients: Annotated[Lines, Key(example=("Example Hosting SA",))]
    authority: Annotated[Line, Key(example="CNIL, www.cnil.fr")]  # where they may complain
    officer: Line | None = None  # the data protection officer
    transfers: Line | None = None  # to third countries, with their safeguards (15(2))


@dataclass(frozen=True, slots=True)
class WebSettings:
    address: Annotated[Address, Key(example="127.0.0.1:8025")]
    public_url: PublicUrl | None = None
    trusted: tuple[Network, ...] = ()  # proxies whose X-Forwarded-For is believed; "unix"


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """A bearer token of the API, known by its hash alone."""

    name: Annotated[Name, Key(example="crm")]
    sha256: Annotated[Sha256, Key(example="64 hexadecimal digits of `smtpproxy token`")]
    may: Annotated[frozenset[Literal["changes", "check"]], Key(example=("changes",)), AT_LEAST_ONE]
    requests_per_minute: Count = 600


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Who is told of changes of suppressions. An empty filter lets everything pass."""

    name: Annotated[Name, Key(example="crm")]
    url: Annotated[WebhookUrl, Key(example="https://crm.example.com/hooks/suppressions")]
    secret_file: Annotated[File, Key(example="/etc/smtpproxy/crm.secret")]
    events: Annotated[frozenset[Event], Key(example=("added", "lifted")), AT_LEAST_ONE] = frozenset(
        {"added", "moved", "lifted"}
    )
    scopes: frozenset[Scope] = frozenset()
    origins: frozenset[Origin] = frozenset()
    ca_file: File | None = None  # None: the authorities that the system trusts
    batch: Annotated[int, Bounds(1, 1000)] = 500  # changes in one message
    timeout: Duration = 10.0  # a whole delivery
    give_up_after: Duration = DAY  # of failures; then a message is a dead letter
    deadline: Duration = 0.0  # by when a change has to be told; 0, in the file: as rulebooks say


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What `smtpproxy doctor` cannot find out by itself."""

    sending_addresses: tuple[IpAddress, ...] = ()  # IP addresses that mail leaves from
