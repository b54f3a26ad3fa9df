"""The settings of a running smtpproxy: frozen, checked, in plain units.

`smtpproxy.config` makes them from TOML; the parts of the product take only the
piece they need. Sizes are bytes, times are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from typing import Literal

from smtpproxy.policy.model import Cap, Mode, Rulebook, Stream, StreamClass
from smtpproxy.policy.periods import Period, months, years


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress
Tls = Literal["none", "starttls", "implicit"]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds, all at once if need be; then as they become free again."""

    count: int
    period: float


@dataclass(frozen=True, slots=True)
class ServerSettings:
    hostname: str
    state_dir: Path
    workers: int = 1  # already resolved: never 0
    data_size_limit: int = 25 * 1024 * 1024
    header_size_limit: int = 256 * 1024
    max_header_fields: int = 1_000
    stream_header: str = "X-Mail-Stream"
    source_header: str = "X-Source-Statement"
    bare_newline: Literal["reject", "normalize"] = "reject"
    spool_threshold: int = 2 * 1024 * 1024  # a larger body goes to disk
    drain_timeout: float = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    language: str = "en"  # of notices to senders


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    name: str
    protocol: Literal["smtp", "lmtp", "milter", "policy"]
    address: Address
    streams: tuple[str, ...] = ()
    default_stream: str | None = None
    origin: str | None = None  # of addresses without a domain at the MTA that asks
    max_connections: int = 10_000  # each worker takes its share
    max_connections_per_address: int = 1_000
    max_recipients: int = 1_000
    max_refused_recipients: int = 1_000  # of one transaction, then 452
    max_refused_per_connection: int = 10_000  # recipients in one session, then 421 to MAIL
    max_errors: int = 20  # refused commands in one session, then 421
    command_timeout: float = 300.0
    data_timeout: float = 1_800.0  # the whole of DATA
    tls: Tls = "none"
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None  # verifies client certificates, where one is shown
    require_tls: bool = False  # MAIL before STARTTLS is a 530
    auth: Literal["off", "optional", "required"] = "off"
    auth_without_tls: bool = False
    handshake_timeout: float = 10.0  # of TLS, and for the header of the PROXY protocol
    proxy_protocol: bool = False
    proxy_trusted: tuple[str, ...] = ()  # networks that may send a PROXY header; "unix"
    xclient_trusted: tuple[str, ...] = ()  # networks that may send XCLIENT and XFORWARD
    login_trusted: tuple[str, ...] | None = None  # networks whose word on logins is believed
    min_data_rate: int = 500  # octets a second of content, after its first minute; 0: any
    early_commands: Literal["refuse", "permit"] = "refuse"  # of clients that do not wait
    connection_rate: Rate | None = None  # new ones from one address
    message_rate: Rate | None = None  # from one address
    recipient_rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class SenderRule:
    """Narrows the streams of a client by its reverse path; never widens them."""

    sender: str  # "news@example.com" or "@example.com"
    streams: tuple[str, ...]
    default_stream: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What somebody who proved to be this may do; narrows the listener, never widens it.

    Either `user` (AUTH) or `certificate` (SHA-256 fingerprint, or subject) is set. An empty
    tuple of `senders` or `from_domains` is no limit, as `streams` None is.
    """

    user: str | None = None
    certificate: str | None = None
    streams: tuple[str, ...] | None = None
    default_stream: str | None = None
    senders: tuple[str, ...] = ()  # "news@example.com", "@example.com" or "<>"
    from_domains: frozenset[str] = frozenset()
    message_rate: Rate | None = None
    recipient_rate: Rate | None = None

    @property
    def name(self) -> str:
        """What the record calls the client: a user, or `certificate:…`."""
        return self.user if self.user is not None else f"certificate:{self.certificate}"


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Who may prove to be whom, and how often they may fail. Counts are those of all workers."""

    users: Path | None = None
    max_failures_per_session: int = 3
    max_failures_per_address: int = 20  # within the window
    max_failures_per_user: int = 10  # within the window, from addresses that never succeeded
    failure_window: float = 600.0
    failure_delay: float = 1.0  # before a failure is answered


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    address: Address
    max_connections: int = 200  # each worker
    max_connections_per_address: int | None = None  # of these; None: three quarters
    connect_timeout: float = 10.0
    command_timeout: float = 300.0
    data_timeout: float = 600.0  # RFC 5321 4.5.3.2.6: ten minutes for the end of data
    idle_timeout: float = 60.0
    wait_timeout: float = 30.0  # for a free connection
    hold_timeout: float = 10.0  # for the client of a connection; then it is given back
    tls: Tls = "none"
    ca_file: Path | None = None  # None: the system's
    tls_name: str | None = None  # the name in its certificate; None: the host of `address`

    @property
    def share(self) -> int:
        """Connections that the messages of one client address may hold at once."""
        return self.max_connections_per_address or max(1, self.max_connections * 3 // 4)


@dataclass(frozen=True, slots=True)
class PartnerSettings:
    """Another sender whose suppressions count here too, and the key shared with it."""

    name: str
    key_file: Path


@dataclass(frozen=True, slots=True)
class StoreSettings:
    url: str
    timeout: float = 2.0  # a read or write that waits longer is a 451
    partners: tuple[PartnerSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditSettings:
    sync: Literal["os", "disk"] = "os"
    segment_size: int = 256 * 1024 * 1024


THREE_YEARS, FIVE_YEARS, THIRTEEN_MONTHS = years(3), years(5), months(13)


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How long what is kept (rules A9, A17, A34, A35). None is for ever."""

    prospects: Period = THREE_YEARS  # since collection, or the last positive act or consent act
    customers: Period = THREE_YEARS  # since the last dealing
    suppressions: Period | None = THREE_YEARS  # since it was given, added, matched or held last
    lifted_suppressions: Period | None = THREE_YEARS  # since it was lifted
    audit: Period = FIVE_YEARS  # since the decision
    changes: Period | None = THIRTEEN_MONTHS  # of the log that others read, since they were written
    enabled: bool = True  # the daily run
    at: time = time(3, 30)  # of the daily run, local


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What people are told of who processes their data and why (GDPR 15(1))."""

    name: str
    address: str
    contact: str  # for requests
    purposes: tuple[str, ...]
    recipients: tuple[str, ...]
    authority: str  # where they may complain
    officer: str | None = None  # the data protection officer
    transfers: str | None = None  # to third countries, with their safeguards (15(2))


@dataclass(frozen=True, slots=True)
class WebSettings:
    address: Address
    public_url: str | None = None
    trusted: tuple[str, ...] = ()  # networks of proxies, whose X-Forwarded-For is believed; "unix"


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """A bearer token of the API, known by its hash alone."""

    name: str
    sha256: str  # of the token, hexadecimal
    may: frozenset[str]  # "changes", "check"
    requests_per_minute: int = 600


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Who is told of changes of suppressions. An empty filter lets everything pass."""

    name: str
    url: str
    secret_file: Path
    events: frozenset[str] = frozenset({"added", "moved", "lifted"})
    scopes: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    ca_file: Path | None = None  # None: the authorities that the system trusts
    batch: int = 500  # changes of the log that one message covers at most
    timeout: float = 10.0  # a whole delivery
    give_up_after: float = 86_400.0  # of failures; then a message is a dead letter
    deadline: float = 172_800.0  # by when a change has to be told


@dataclass(frozen=True, slots=True)
class DkimSettings:
    """A key that signs mail whose From is of `domain`. No streams: all of them."""

    domain: str  # lower-case A-label
    selector: str
    key: Path
    streams: frozenset[str] = frozenset()
    since: datetime | None = None  # UTC; in force from then on
    subdomains: bool = False  # for what is below the domain too


@dataclass(frozen=True, slots=True)
class DnsSettings:
    nameservers: tuple[TcpAddress, ...] = ()  # empty: the system's
    timeout: float = 5.0  # a whole lookup


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """What `smtpproxy doctor` cannot find out by itself."""

    sending_addresses: tuple[str, ...] = ()  # IP addresses that mail leaves from


@dataclass(frozen=True, slots=True)
class PolicySettings:
    rulebook: str = "fr"
    mode: Mode = Mode.ENFORCE
    on_mixed: Literal["refuse", "split"] = "refuse"
    frequency_cap: Cap | None = None  # of all marketing messages to a person
    imprint: tuple[str, ...] = ()  # of streams whose rulebook asks for one
    check_recipient_domain: bool = False  # whether it says that it takes no mail (RFC 7505)


@dataclass(frozen=True, slots=True)
class Settings:
    server: ServerSettings
    listeners: tuple[ListenerSettings, ...]
    upstream: UpstreamSettings
    store: StoreSettings
    audit: AuditSettings = AuditSettings()
    web: WebSettings | None = None
    policy: PolicySettings = PolicySettings()
    streams: Mapping[str, Stream] = field(default_factory=dict)  # with `default`
    sender_rules: tuple[SenderRule, ...] = ()
    rulebooks: Mapping[str, Rulebook] = field(default_factory=dict)
    tokens: tuple[TokenSettings, ...] = ()
    webhooks: tuple[WebhookSettings, ...] = ()
    retention: RetentionSettings = RetentionSettings()
    controller: ControllerSettings | None = None
    auth: AuthSettings = AuthSettings()
    credentials: tuple[Credential, ...] = ()
    dkim: tuple[DkimSettings, ...] = ()
    dns: DnsSettings = DnsSettings()
    doctor: DoctorSettings = DoctorSettings()
    hash: str = ""  # SHA-256 of the file, 12 hex digits, for config_info

    @property
    def purposes(self) -> frozenset[str]:
        """What anybody can consent to here: of every stream, `default` too."""
        return frozenset(one.purpose for one in self.streams.values() if one.purpose)

    @property
    def methods(self) -> frozenset[str]:
        """Every method of consent that a rulebook in use knows, valid or not."""
        books = self.rulebooks.values()
        return frozenset(m for book in books for m in book.valid_methods | book.preticked_methods)

    @property
    def restricted_tags(self) -> frozenset[str]:
        """The tags that protect a contact by any rulebook in use."""
        return frozenset(tag for book in self.rulebooks.values() for tag in book.restricted_tags)

    @property
    def consumer_domains(self) -> frozenset[str]:
        """Domains of private mailboxes, by any rulebook in use."""
        return frozenset(d for book in self.rulebooks.values() for d in book.consumer_domains)

    @property
    def counts_alike(self) -> bool:
        """Whether any stream asks to how many people one text was sent."""
        return any(
            stream.stream_class is StreamClass.TRANSACTIONAL and stream.bulk_recipients is not None
            for stream in self.streams.values()
        )

    @property
    def source_header(self) -> str | None:
        """`server.source_header` if any stream asks for it: else it need not be read."""
        asked = any(stream.first_contact_notice for stream in self.streams.values())
        return self.server.source_header if asked else None

    @property
    def adds_ways_out(self) -> bool:
        """Whether any stream adds unsubscribe headers."""
        return any(stream.unsubscribe_scope is not None for stream in self.streams.values())

    @property
    def counts_mailings(self) -> bool:
        """Whether any stream asks what people were mailed before: then marketing is counted."""
        return any(stream.counts_mailings for stream in self.streams.values())

    @property
    def has_rates(self) -> bool:
        """Whether anybody may send only so much in a time: then it is counted."""
        rates = [each.connection_rate for each in self.listeners]
        rates += [
            rate for each in self.listeners for rate in (each.message_rate, each.recipient_rate)
        ]
        rates += [
            rate for each in self.credentials for rate in (each.message_rate, each.recipient_rate)
        ]
        return any(rates)
