"""The configuration file as checked models: one class for each table.

A default stands here as somebody would write it in the file, and is read like the
file. docs/settings.md documents every key; a test holds the two together.
"""

from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from smtpproxy.config import access_values, dkim_values, propagation_values, values
from smtpproxy.policy.frequency import Cap
from smtpproxy.policy.periods import Period as AnyPeriod
from smtpproxy.settings import Address as AnyAddress
from smtpproxy.settings import Rate as AnyRate
from smtpproxy.settings import TcpAddress

Size = Annotated[int, PlainValidator(values.size)]
HeaderSize = Annotated[int, PlainValidator(values.header_size)]
Duration = Annotated[float, PlainValidator(values.duration)]
Address = Annotated[AnyAddress, PlainValidator(values.address)]
Hostname = Annotated[str, PlainValidator(values.hostname)]
Domain = Annotated[str, PlainValidator(values.domain)]
Name = Annotated[str, PlainValidator(values.name)]
Purpose = Annotated[str, PlainValidator(values.purpose)]
FieldName = Annotated[str, PlainValidator(values.field_name)]
AbsolutePath = Annotated[str, PlainValidator(values.absolute_path)]
StoreUrl = Annotated[str, PlainValidator(values.store_url)]
PublicUrl = Annotated[str, PlainValidator(values.public_url)]
FrequencyCap = Annotated[Cap, PlainValidator(values.frequency_cap)]
Passage = Annotated[str, PlainValidator(values.passage)]
Line = Annotated[str, PlainValidator(values.line)]
Language = Annotated[str, PlainValidator(values.language)]
Word = Annotated[str, PlainValidator(values.word)]
Sender = Annotated[str, PlainValidator(values.sender)]
Period = Annotated[AnyPeriod | None, PlainValidator(values.period)]
PeriodWithEnd = Annotated[AnyPeriod, PlainValidator(values.period_with_end)]
SuppressionPeriod = Annotated[AnyPeriod | None, PlainValidator(values.suppression_period)]
TimeOfDay = Annotated[time, PlainValidator(values.time_of_day)]
Count = Annotated[int, Field(ge=1)]
Mailbox = Annotated[str, PlainValidator(values.mailbox)]
ListId = Annotated[str, PlainValidator(values.list_id)]
Sha256 = Annotated[str, PlainValidator(propagation_values.sha256)]
WebhookUrl = Annotated[str, PlainValidator(propagation_values.webhook_url)]
Scope = Annotated[str, PlainValidator(propagation_values.scope)]
File = Annotated[Path, PlainValidator(access_values.file_path)]
Network = Annotated[str, PlainValidator(access_values.network)]
User = Annotated[str, PlainValidator(access_values.user)]
Certificate = Annotated[str, PlainValidator(access_values.certificate)]
IpAddress = Annotated[str, PlainValidator(values.ip_address)]
Selector = Annotated[str, PlainValidator(dkim_values.selector)]
Moment = Annotated[datetime, PlainValidator(dkim_values.moment)]
Nameserver = Annotated[TcpAddress, PlainValidator(dkim_values.nameserver)]
Rate = Annotated[AnyRate, PlainValidator(access_values.rate)]
AllowedSender = Annotated[str, PlainValidator(access_values.allowed_sender)]


class NotYet:
    """Marks a key whose capability comes later: only `neutral` (what happens now) passes,
    and what is `built`.

    A protection that somebody asks for and does not get must be a fault, never silence.
    """

    def __init__(self, neutral: object = None, *built: object) -> None:
        self.neutral = neutral
        self.built = built

    def __call__(self, value: Any) -> Any:
        if value == self.neutral or value in self.built:
            return value
        right = "leave it out"
        if self.neutral is not None:
            right += f" or set it to {values.shown(self.neutral)}"
        raise PydanticCustomError(
            "not_yet", "not available in this version: {right}", {"right": right}
        )


def later(neutral: object = None, *built: object) -> AfterValidator:
    return AfterValidator(NotYet(neutral, *built))


def written(default: str) -> Any:
    """A default in the units of the file."""
    return Field(default=default, validate_default=True)


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True, frozen=True)


class Server(Table):
    hostname: Hostname = Field(examples=["relay.example.com"])
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    state_dir: AbsolutePath = "/var/lib/smtpproxy"
    data_size_limit: Size = written("25MiB")
    header_size_limit: HeaderSize = written("256KiB")
    max_header_fields: Annotated[int, Field(ge=20, le=10_000)] = 1000
    stream_header: FieldName = "X-Mail-Stream"
    source_header: FieldName = "X-Source-Statement"
    bare_newline: Literal["reject", "normalize"] = "reject"
    spool_threshold: Size = written("2MiB")
    drain_timeout: Duration = written("30s")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    language: Language = "en"


class Listener(Table):
    name: Name = Field(examples=["apps"])
    protocol: Literal["smtp", "lmtp", "milter", "policy"] = "smtp"
    address: Address = Field(examples=["127.0.0.1:2525"])
    streams: list[Name] = []
    default_stream: Name | None = None
    origin: Hostname | None = None
    max_connections: Count = 10_000
    max_connections_per_address: Count = 1_000
    max_recipients: Count = 1_000
    max_refused_recipients: Count = 1_000
    max_refused_per_connection: Count = 10_000
    max_errors: Count = 20
    command_timeout: Duration = written("5m")
    data_timeout: Duration = written("30m")
    tls: Literal["none", "starttls", "implicit"] = "none"
    certificate: File | None = None
    private_key: File | None = None
    client_ca: File | None = None
    require_tls: bool = False
    auth: Literal["off", "optional", "required"] = "off"
    auth_without_tls: bool = False
    handshake_timeout: Duration = written("10s")
    proxy_protocol: bool = False
    proxy_trusted: list[Network] = []
    xclient_trusted: list[Network] = []
    login_trusted: list[Network] | None = None
    min_data_rate: Annotated[int, Field(ge=0)] = 500
    early_commands: Literal["refuse", "permit"] = "refuse"
    connection_rate: Rate | None = None
    message_rate: Rate | None = None
    recipient_rate: Rate | None = None


class Upstream(Table):
    address: Address = Field(examples=["127.0.0.1:10025"])
    max_connections: Count = 200
    max_connections_per_address: Count | None = None
    connect_timeout: Duration = written("10s")
    command_timeout: Duration = written("5m")
    data_timeout: Duration = written("10m")
    idle_timeout: Duration = written("60s")
    wait_timeout: Duration = written("30s")
    hold_timeout: Duration = written("10s")
    tls: Literal["none", "starttls", "implicit"] = "none"
    ca_file: File | None = None
    tls_name: Hostname | None = None


class Auth(Table):
    users: File | None = None
    max_failures_per_session: Count = 3
    max_failures_per_address: Count = 20
    max_failures_per_user: Count = 10
    failure_window: Duration = written("10m")
    failure_delay: Duration = written("1s")


class Store(Table):
    url: StoreUrl | None = None
    timeout: Duration = written("2s")


class Audit(Table):
    sync: Literal["os", "disk"] = "os"
    segment_size: Size = written("256MiB")


class Retention(Table):
    prospects: PeriodWithEnd = written("3y")
    customers: PeriodWithEnd = written("3y")
    suppressions: SuppressionPeriod = written("3y")
    lifted_suppressions: Period = written("3y")
    audit: PeriodWithEnd = written("5y")
    changes: Period = written("13m")
    enabled: bool = True
    at: TimeOfDay = written("03:30")


class Controller(Table):
    name: Line = Field(examples=["Example SA"])
    address: Line = Field(examples=["1 rue de l'Exemple, 75001 Paris"])
    contact: Line = Field(examples=["privacy@example.com"])
    officer: Line | None = None
    purposes: list[Line] = Field(min_length=1, examples=[["offers by e-mail"]])
    recipients: list[Line] = Field(min_length=1, examples=[["Example Hosting SA"]])
    transfers: Line | None = None
    authority: Line = Field(examples=["CNIL, www.cnil.fr"])


class Web(Table):
    address: Address = Field(examples=["127.0.0.1:8025"])
    public_url: PublicUrl | None = None
    trusted: list[Network] = []


class Policy(Table):
    rulebook: str = "fr"
    mode: Literal["enforce", "observe"] = "enforce"
    on_mixed: Literal["refuse", "split"] = "refuse"
    frequency_cap: FrequencyCap | None = None
    check_recipient_domain: bool = False
    imprint: list[Passage] = []


class Stream(Table):
    name: Name = Field(examples=["offers"])
    stream_class: Literal["marketing", "transactional"] = Field(
        alias="class", examples=["marketing"]
    )
    purpose: Purpose | None = None
    nature: Literal["commercial", "charity"] = "commercial"
    products: list[Word] = []
    topics: list[Word] = []
    from_domains: list[Domain] = []
    unsubscribe: Literal["require", "add"] = "require"
    existing_unsubscribe: Literal["keep", "replace", "refuse"] = "keep"
    unsubscribe_scope: Literal["purpose", "marketing"] = "purpose"
    unsubscribe_mailto: Mailbox | None = None
    list_id: ListId | None = None
    one_click: Literal["required", "optional"] = "required"
    rulebook: str | None = None
    mode: Literal["enforce", "observe"] | None = None
    paused: bool = False
    first_contact_notice: bool = False
    undeclared_bulk: Literal["observe", "refuse", "marketing"] = "observe"
    bulk_recipients: Count | None = None
    bulk_window: Duration = written("1h")
    max_recipients: Count | None = None
    refuse_at: Literal["rcpt", "data"] = "rcpt"
    frequency_cap: FrequencyCap | None = None
    body_optout: bool = False
    imprint: list[Passage] = []
    source_statement: list[Passage] = []
    honest_subject: bool = False
    alignment: Literal["off", "relaxed", "strict"] = "off"
    check_dkim: bool = True
    max_snapshot_age: Duration | None = None


class Partner(Table):
    name: Name = Field(examples=["shoes-ltd"])
    key_file: AbsolutePath = Field(examples=["/etc/smtpproxy/shoes-ltd.key"])


class SenderTable(Table):
    address: Sender = Field(examples=["news@example.com"])
    streams: list[Name] = Field(min_length=1, examples=[["offers"]])
    default_stream: Name | None = None


class Token(Table):
    name: Name = Field(examples=["crm"])
    sha256: Sha256 = Field(examples=["64 hexadecimal digits, as `smtpproxy token` prints them"])
    may: list[Literal["changes", "check"]] = Field(min_length=1, examples=[["changes"]])
    requests_per_minute: Count = 600


class Webhook(Table):
    name: Name = Field(examples=["crm"])
    url: WebhookUrl = Field(examples=["https://crm.example.com/hooks/suppressions"])
    secret_file: AbsolutePath = Field(examples=["/etc/smtpproxy/crm.secret"])
    events: list[Literal["added", "moved", "lifted"]] = Field(
        default=["added", "moved", "lifted"], min_length=1, examples=[["added", "lifted"]]
    )
    scopes: list[Scope] = []
    origins: list[
        Literal["unsubscribe", "complaint", "bounce", "objection", "erasure", "manual", "external"]
    ] = []
    ca_file: AbsolutePath | None = None
    batch: Annotated[int, Field(ge=1, le=1000)] = 500
    timeout: Duration = written("10s")
    give_up_after: Duration = written("24h")
    deadline: Duration | None = None


class CredentialTable(Table):
    user: User | None = None
    certificate: Certificate | None = None
    streams: list[Name] | None = Field(default=None, min_length=1, examples=[["offers"]])
    default_stream: Name | None = None
    senders: list[AllowedSender] = []
    from_domains: list[Domain] = []
    message_rate: Rate | None = None
    recipient_rate: Rate | None = None


class Dkim(Table):
    domain: Domain = Field(examples=["example.com"])
    selector: Selector = Field(examples=["s2026"])
    key: File = Field(examples=["/etc/smtpproxy/s2026.pem"])
    streams: list[Name] = []
    since: Moment | None = Field(default=None, alias="from")
    subdomains: bool = False


class Dns(Table):
    nameservers: list[Nameserver] = []
    timeout: Duration = written("5s")


class Doctor(Table):
    sending_addresses: list[IpAddress] = []


class Document(Table):
    """The whole file."""

    server: Server
    listener: list[Listener] = Field(min_length=1)
    upstream: Upstream
    store: Store = Store()
    audit: Audit = Audit()
    retention: Retention = Retention()
    controller: Controller | None = None
    web: Web | None = None
    policy: Policy = Policy()
    stream: list[Stream] = []
    sender: list[SenderTable] = []
    partner: list[Partner] = []
    token: list[Token] = []
    webhook: list[Webhook] = []
    auth: Auth = Auth()
    credential: list[CredentialTable] = []
    dkim: list[Dkim] = []
    dns: Dns = Dns()
    doctor: Doctor = Doctor()
    feedback: Annotated[dict[str, Any] | None, later()] = None
