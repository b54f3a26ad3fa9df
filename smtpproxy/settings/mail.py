"""The tables of the settings: who may send, where mail goes, what is kept, and who is told.

Each class is one table of the file. A field is a setting: its type says how it is written and its
bounds, its default is in plain units (bytes, seconds). docs/settings.md says what each is for; a
test keeps the two in step.
"""

from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Struct

from smtpproxy.policy.periods import beginning, days, months, years
from smtpproxy.settings.amounts import (
    DAY,
    KIB,
    MIB,
    MINUTE,
    Count,
    Duration,
    FrequencyCap,
    HeaderSize,
    Moment,
    OpenPeriod,
    PeriodWithEnd,
    PerTime,
    Size,
    SuppressionPeriod,
    TimeOfDay,
)
from smtpproxy.settings.names import (
    Certificate,
    Country,
    FieldName,
    Language,
    Line,
    Mailbox,
    Name,
    Selector,
    Sender,
    Sha256,
    User,
)
from smtpproxy.settings.places import (
    Address,
    Domain,
    File,
    Hostname,
    IpAddress,
    Nameserver,
    Network,
    PublicUrl,
    ReplicaUrl,
    StoreUrl,
    UnixAddress,
)
from smtpproxy.toml_tables import AT_LEAST_ONE, DERIVED, Bounds, Key

Tls = Literal["none", "starttls", "implicit"]

UNIT_STATE = Path("/var/lib/smtpproxy")
"""The `StateDirectory` of smtpproxy.service."""
DATABASE = "smtpproxy.db"
"""The store in `state_dir`, unless `store.url` names another."""


class ServerSettings(Struct, frozen=True):
    hostname: Annotated[Hostname, Key(example="relay.example.com")]
    state_dir: File = UNIT_STATE
    workers: Annotated[int, Bounds(0, 256)] = 1  # 0, in the file: one per CPU
    data_size_limit: Size = 25 * MIB
    header_size_limit: HeaderSize = 256 * KIB
    max_header_fields: Annotated[int, Bounds(20, 10_000)] = 1_000
    stream_header: FieldName = "X-Mail-Stream"
    source_header: FieldName = "X-Source-Statement"
    bare_newline: Literal["reject", "normalize"] = "reject"
    spool_threshold: Size = 2 * MIB  # a larger body goes to disk
    drain_timeout: Duration = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    language: Language = "en"  # of notices to senders


class ListenerSettings(Struct, frozen=True):
    name: Annotated[Name, Key(example="apps")]
    address: Annotated[Address, Key(example="127.0.0.1:2525")]
    protocol: Literal["smtp", "lmtp", "milter", "policy"] = "smtp"
    streams: tuple[Name, ...] = ()
    default_stream: Name | None = None
    origin: Hostname | None = None  # the asking MTA's domain for addresses without one
    max_connections: Count = 10_000  # in all workers together
    max_connections_per_address: Count = 1_000
    max_recipients: Count = 1_000
    max_refused_recipients: Count = 1_000  # of one transaction, then 452
    max_refused_per_connection: Count = 10_000  # recipients in one session, then 421 to MAIL
    max_errors: Count = 20  # refused commands in one session, then 421
    command_timeout: Duration = 5 * MINUTE
    data_timeout: Duration = 30 * MINUTE  # the whole of DATA
    tls: Tls = "none"
    certificate: File | None = None
    private_key: File | None = None
    client_ca: File | None = None  # verifies client certificates, if presented
    require_tls: bool = False  # MAIL before STARTTLS gets a 530
    auth: Literal["off", "optional", "required"] = "off"
    auth_without_tls: bool = False
    handshake_timeout: Duration = 10.0  # of TLS, and for the PROXY header
    proxy_protocol: bool = False
    proxy_trusted: tuple[Network, ...] = ()  # networks that may send a PROXY header; "unix"
    xclient_trusted: tuple[Network, ...] = ()  # networks that may send XCLIENT and XFORWARD
    login_trusted: tuple[Network, ...] | None = None  # networks whose reported logins count
    min_data_rate: Annotated[int, Bounds(0)] = 500  # octets a second; 0: any
    early_commands: Literal["refuse", "permit"] = "refuse"  # from clients that do not wait
    connection_rate: PerTime | None = None  # new ones from one address
    message_rate: PerTime | None = None  # from one address
    recipient_rate: PerTime | None = None


class SenderRule(Struct, frozen=True):
    """Narrows the streams of a client by its reverse path; never widens them."""

    sender: Annotated[Sender, Key("address", example="news@example.com")]
    streams: Annotated[tuple[Name, ...], Key(example=("offers",)), AT_LEAST_ONE]
    default_stream: Name | None = None


class Credential(Struct, frozen=True):
    """What an authenticated client may do; narrows the listener, never widens it.

    Either `user` (AUTH) or `certificate` (SHA-256 fingerprint, or subject) is set. An empty
    `senders` or `from_domains` is no limit, nor is `streams` None.
    """

    user: User | None = None
    certificate: Certificate | None = None
    streams: Annotated[tuple[Name, ...], Key(example=("offers",)), AT_LEAST_ONE] | None = None
    default_stream: Name | None = None
    senders: tuple[Sender, ...] = ()  # "news@example.com", "@example.com" or "<>"
    from_domains: frozenset[Domain] = frozenset()
    message_rate: PerTime | None = None
    recipient_rate: PerTime | None = None

    @property
    def name(self) -> str:
        """The client's name in the record: a user, or `certificate:…`."""
        return self.user if self.user is not None else f"certificate:{self.certificate}"


class AuthSettings(Struct, frozen=True):
    """Who may authenticate, and how often that may fail."""

    users: File | None = None
    max_failures_per_session: Count = 3
    max_failures_per_address: Count = 20  # within the window
    max_failures_per_user: Count = 10  # within the window, from addresses that never succeeded
    failure_window: Duration = 10 * MINUTE
    failure_delay: Duration = 1.0  # before a failure is answered


class UpstreamSettings(Struct, frozen=True):
    address: Annotated[Address, Key(example="127.0.0.1:10025")]
    max_connections: Count = 200  # each worker
    max_connections_per_address: Count | None = None  # of these; None: three quarters
    connect_timeout: Duration = 10.0
    command_timeout: Duration = 5 * MINUTE
    data_timeout: Duration = 10 * MINUTE  # RFC 5321 4.5.3.2.6, for the end of data
    idle_timeout: Duration = MINUTE
    wait_timeout: Duration = 30.0  # for a free connection
    hold_timeout: Duration = 10.0  # for the client; then its connection is given back
    tls: Tls = "none"
    ca_file: File | None = None  # None: the system's
    tls_name: Hostname | None = None  # the name in its certificate; None: the host of `address`

    @property
    def certificate_name(self) -> str:
        """The name for which its certificate has to be valid."""
        if self.tls_name is not None:
            return self.tls_name
        return "localhost" if isinstance(self.address, UnixAddress) else self.address.host

    @property
    def share(self) -> int:
        """How many connections the messages of one client address may hold at once."""
        return self.max_connections_per_address or max(1, self.max_connections * 3 // 4)


class DkimSettings(Struct, frozen=True):
    """A key that signs mail with a From in `domain`. No streams: all of them."""

    domain: Annotated[Domain, Key(example="example.com")]  # lower-case A-label
    selector: Annotated[Selector, Key(example="s2026")]
    key: Annotated[File, Key(example="/etc/smtpproxy/s2026.pem")]
    streams: frozenset[Name] = frozenset()
    since: Annotated[Moment | None, Key("from")] = None  # UTC; signs from then on
    subdomains: bool = False  # for subdomains too

    @property
    def record_name(self) -> str:
        """Where the DNS has its record."""
        return f"{self.selector}._domainkey.{self.domain}"

    def signs(self, domain: str) -> bool:
        """Whether it signs mail whose From is in a domain, on some stream."""
        return domain == self.domain or (self.subdomains and domain.endswith(f".{self.domain}"))


class DnsSettings(Struct, frozen=True):
    nameservers: tuple[Nameserver, ...] = ()  # empty: the system's
    timeout: Duration = 5.0  # a whole lookup


Lines = Annotated[tuple[Line, ...], AT_LEAST_ONE]


class PartnerSettings(Struct, frozen=True):
    """Another sender whose suppressions count here too, and the key shared with it."""

    name: Annotated[Name, Key(example="shoes-ltd")]
    key_file: Annotated[File, Key(example="/etc/smtpproxy/shoes-ltd.key")]


class StoreSettings(Struct, frozen=True):
    url: StoreUrl = ""  # empty, only in the file: in `state_dir`
    timeout: Duration = 2.0  # a read or write that waits longer gets a 451
    connections: Annotated[int, Bounds(4, 1_000)] = 10  # per process, to PostgreSQL
    prepared_statements: bool = True  # false: for a pooler in transaction mode
    replica_url: ReplicaUrl | None = None  # a standby from which RCPT may be answered
    max_replica_lag: Duration = 1.0  # beyond that the primary is asked
    require_synchronous: bool = False  # commits of PostgreSQL must wait for a standby
    partners: Annotated[tuple[PartnerSettings, ...], DERIVED] = ()


class AuditSettings(Struct, frozen=True):
    sync: Literal["os", "disk"] = "os"
    segment_size: Size = 256 * MIB


class RetentionSettings(Struct, frozen=True):
    """How long data is kept (rules A9, A17, A34, A35). None is for ever."""

    prospects: PeriodWithEnd = years(3)  # since collection, or the last positive or consent act
    customers: PeriodWithEnd = years(3)  # since the last dealing
    requests: PeriodWithEnd = months(1)  # never confirmed, and nothing else is known
    suppressions: SuppressionPeriod = years(3)  # since it was last given, added, matched or held
    lifted_suppressions: OpenPeriod = years(3)  # since it was lifted
    audit: PeriodWithEnd = years(5)  # since the decision
    index: PeriodWithEnd = days(90)  # of decisions, in PostgreSQL; no longer than audit
    reports: PeriodWithEnd = months(1)  # received by mail, since then
    changes: OpenPeriod = months(13)  # of the log that other systems read, since written
    enabled: bool = True  # the daily run
    at: TimeOfDay = time(3, 30)  # of the daily run, local

    def indexed_since(self, now: datetime) -> datetime:
        """The moment since which decisions are indexed; none whose audit record has expired is."""
        return max(beginning(now, self.index), beginning(now, self.audit))


class ControllerSettings(Struct, frozen=True):
    """What people are told about who processes their data and why (GDPR 15(1))."""

    name: Annotated[Line, Key(example="Example SA")]
    address: Annotated[Line, Key(example="1 rue de l'Exemple, 75001 Paris")]
    contact: Annotated[Line, Key(example="privacy@example.com")]  # for requests
    purposes: Annotated[Lines, Key(example=("offers by e-mail",))]
    recipients: Annotated[Lines, Key(example=("Example Hosting SA",))]
    authority: Annotated[Line, Key(example="CNIL, www.cnil.fr")]  # where they may complain
    officer: Line | None = None  # the data protection officer
    transfers: Line | None = None  # to third countries, with their safeguards (15(2))
    storage: tuple[Country, ...] = ()  # where data are stored


class WebSettings(Struct, frozen=True):
    address: Annotated[Address, Key(example="127.0.0.1:8025")]
    public_url: PublicUrl | None = None
    trusted: tuple[Network, ...] = ()  # proxies whose X-Forwarded-For counts; "unix"


class ConfirmationSettings(Struct, frozen=True):
    """The relay's own mail, with a link by which people confirm a request in their name."""

    sender: Annotated[Mailbox, Key(example="hello@example.com")]  # From, and the reverse path
    valid_for: Duration = 7 * DAY
    max_per_address: Count = 3  # in 24 hours
    max_per_day: Count = 10_000  # to all people


Right = Literal[
    "changes",
    "check",
    "consent",
    "permission",
    "suppressions",
    "suppress",
    "lift",
    "record",
    "withdraw",
    "contacts",
    "upsert",
    "erase",
    "decisions",
    "streams",
    "pause",
    "imports",
    "import",
]


class TokenSettings(Struct, frozen=True):
    """A bearer token of the API, known only by its hash."""

    name: Annotated[Name, Key(example="crm")]
    sha256: Annotated[Sha256, Key(example="64 hexadecimal digits of `smtpproxy token`")]
    may: Annotated[frozenset[Right], Key(example=("changes",)), AT_LEAST_ONE]
    brands: frozenset[Name] = frozenset()  # empty: all
    requests_per_minute: Count = 600


class FeedbackSettings(Struct, frozen=True):
    """Where bounces, complaints and requests to unsubscribe come in by mail."""

    domain: Annotated[Domain, Key(example="bounces.example.com")]
    address: Address | None = None  # where the MTA delivers; None: only into the maildir
    protocol: Literal["smtp", "lmtp"] = "lmtp"
    maildir: File | None = None  # None: `feedback` in `state_dir`
    require_token: bool = True  # a report without one of ours suppresses nobody
    authenticate: Literal["required", "optional"] = "optional"  # providers' reports
    suppress_full: FrequencyCap | None = None  # "3/30d": full mailboxes; None: never
    size_limit: Size = 10 * MIB  # of one report


class DoctorSettings(Struct, frozen=True):
    """What `smtpproxy doctor` cannot find out itself."""

    sending_addresses: tuple[IpAddress, ...] = ()  # IP addresses that mail leaves from
