"""The settings of a running smtpproxy: each defined once, frozen, in plain units.

`smtpproxy.config` reads them from TOML; each part of the product takes only what it needs. Sizes
are bytes, times are seconds. CONTRIBUTING.md says how to add one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from msgspec.structs import astuple

from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Alignment,
    Basis,
    Rulebook,
    Source,
    Stream,
    StreamClass,
)
from smtpproxy.policy.scopes import Scopes
from smtpproxy.settings.amounts import Rate
from smtpproxy.settings.brands import BrandSettings
from smtpproxy.settings.mail import (
    AuditSettings,
    AuthSettings,
    ConfirmationSettings,
    ControllerSettings,
    Credential,
    DkimSettings,
    DnsSettings,
    DoctorSettings,
    FeedbackSettings,
    ListenerSettings,
    PartnerSettings,
    RetentionSettings,
    SenderRule,
    ServerSettings,
    StoreSettings,
    TokenSettings,
    UpstreamSettings,
    WebSettings,
)
from smtpproxy.settings.places import Address, TcpAddress, UnixAddress, files_named
from smtpproxy.settings.streams import (
    BreakerSettings,
    PolicySettings,
    StreamSettings,
    WebhookSettings,
)
from smtpproxy.toml_tables import AT_LEAST_ONE, DERIVED, Key

__all__ = [
    "Address",
    "AuditSettings",
    "AuthSettings",
    "BrandSettings",
    "BreakerSettings",
    "ConfirmationSettings",
    "ControllerSettings",
    "Credential",
    "DkimSettings",
    "DnsSettings",
    "DoctorSettings",
    "FeedbackSettings",
    "ListenerSettings",
    "PartnerSettings",
    "PolicySettings",
    "Rate",
    "RetentionSettings",
    "SenderRule",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "StreamSettings",
    "TcpAddress",
    "TokenSettings",
    "UnixAddress",
    "UpstreamSettings",
    "WebSettings",
    "WebhookSettings",
]

BUILT_IN_PURPOSES = frozenset({"tracking"})
"""What people can consent to although no stream has that purpose: tracking of opens and clicks."""


class Settings(Struct, frozen=True):
    """The whole file, by the names of its tables, and what is derived from several of them."""

    server: ServerSettings
    listeners: Annotated[tuple[ListenerSettings, ...], Key("listener"), AT_LEAST_ONE]
    upstream: UpstreamSettings
    store: StoreSettings = StoreSettings()
    audit: AuditSettings = AuditSettings()
    retention: RetentionSettings = RetentionSettings()
    controller: ControllerSettings | None = None
    web: WebSettings | None = None
    confirmation: ConfirmationSettings | None = None
    policy: PolicySettings = PolicySettings()
    declared_brands: Annotated[tuple[BrandSettings, ...], Key("brand")] = ()
    breaker: BreakerSettings = BreakerSettings()
    declared_streams: Annotated[tuple[StreamSettings, ...], Key("stream")] = ()
    sender_rules: Annotated[tuple[SenderRule, ...], Key("sender")] = ()
    partners: Annotated[tuple[PartnerSettings, ...], Key("partner")] = ()
    tokens: Annotated[tuple[TokenSettings, ...], Key("token")] = ()
    webhooks: Annotated[tuple[WebhookSettings, ...], Key("webhook")] = ()
    auth: AuthSettings = AuthSettings()
    credentials: Annotated[tuple[Credential, ...], Key("credential")] = ()
    dkim: tuple[DkimSettings, ...] = ()
    dns: DnsSettings = DnsSettings()
    doctor: DoctorSettings = DoctorSettings()
    feedback: FeedbackSettings | None = None

    streams: Annotated[Mapping[str, Stream], DERIVED] = {}
    """By name, with `default`."""
    brands: Annotated[Mapping[str, BrandSettings], DERIVED] = {}
    """By name; the built-in one if none is declared. All have a title and a controller."""
    rulebooks: Annotated[Mapping[str, Rulebook], DERIVED] = {}
    rulebook_files: Annotated[tuple[Path, ...], DERIVED] = ()
    hash: Annotated[str, DERIVED] = ""
    """SHA-256 of the file, 12 hex digits, for config_info."""

    @property
    def purposes(self) -> frozenset[str]:
        """What anybody can consent to here: the purposes of all streams, and the built-in ones."""
        return BUILT_IN_PURPOSES | self.mail_purposes

    @property
    def scopes(self) -> Scopes:
        """The names that suppressions may contain."""
        return Scopes(frozenset(self.brands) | self.brand_names, self.purposes)

    @property
    def mail_purposes(self) -> frozenset[str]:
        """What people can agree to be mailed for."""
        return frozenset(one.purpose for one in self.streams.values() if one.purpose)

    def purposes_of(self, brand: str) -> frozenset[str]:
        """What people can agree to be mailed for by one brand."""
        own = (one.purpose for one in self.streams.values() if one.brand == brand)
        return frozenset(purpose for purpose in own if purpose)

    @property
    def brand_names(self) -> frozenset[str]:
        """The named brands, which records may name as the one that something was said to."""
        return frozenset(brand.name for brand in self.declared_brands)

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
    def role_local_parts(self) -> frozenset[str]:
        """Names of departments, by any rulebook in use that requires no basis for them."""
        books = (book for book in self.rulebooks.values() if Basis.GENERIC_ADDRESS in book.bases)
        return frozenset(local for book in books for local in book.role_local_parts)

    @property
    def counts_bulk(self) -> bool:
        """Whether any stream needs to know how many people were sent one text."""
        return any(
            stream.stream_class is StreamClass.TRANSACTIONAL and stream.bulk_recipients is not None
            for stream in self.streams.values()
        )

    @property
    def asks_dns(self) -> bool:
        """Whether the domains of every message are looked up, on some stream."""
        relaxed = any(stream.alignment is Alignment.RELAXED for stream in self.streams.values())
        return self.policy.check_recipient_domain or relaxed

    @property
    def source_header(self) -> str | None:
        """`server.source_header` if any stream uses it; otherwise it need not be read."""
        asked = any(stream.first_contact_notice for stream in self.streams.values())
        return self.server.source_header if asked else None

    @property
    def unannounced_sources(self) -> frozenset[Source]:
        """Sources of addresses that some stream's first message need not name."""
        return frozenset(
            source
            for one in self.streams.values()
            if one.stream_class is StreamClass.MARKETING
            and not (one.first_contact_notice or one.name == DEFAULT_STREAM.name)
            for source in self.rulebooks[one.rulebook].disclosed_sources
        )

    @property
    def own_socket(self) -> Path:
        """The socket for the relay's own mail to people, if there is a `[confirmation]`."""
        return self.server.state_dir / "confirmations.sock"

    @property
    def adds_unsubscribe(self) -> bool:
        """Whether any stream adds unsubscribe headers."""
        return any(stream.unsubscribe_scope is not None for stream in self.streams.values())

    @property
    def used_streams(self) -> tuple[Stream, ...]:
        """The streams without the built-in one where all mail surely has another."""
        narrowed = any(one.streams for one in self.credentials) or bool(self.sender_rules)
        chosen = all(one.default_stream for one in self.listeners) and not narrowed
        streams = self.streams.values()
        return tuple(one for one in streams if not chosen or one.name != DEFAULT_STREAM.name)

    @property
    def makes_tokens(self) -> bool:
        """Whether anything is made or read with the link keys."""
        by_mail = self.confirmation is not None or self.feedback is not None
        return self.adds_unsubscribe or by_mail

    @property
    def feedback_dir(self) -> Path:
        """The maildir of the feedback mailbox."""
        chosen = None if self.feedback is None else self.feedback.maildir
        return chosen or self.server.state_dir / "feedback"

    @property
    def named_paths(self) -> tuple[Path, ...]:
        """The files that the configuration names: keys, certificates, rulebooks and so on."""
        found: dict[Path, None] = {}
        skipped = {self.server.state_dir, self.feedback_dir}

        def look(value: object) -> None:
            if isinstance(value, Path):
                if value not in skipped:
                    found[value] = None
            elif isinstance(value, Struct):
                for each in astuple(value):
                    look(each)
            elif isinstance(value, tuple | list):
                for each in value:
                    look(each)

        look(self)
        look([files_named(url) for url in (self.store.url, self.store.replica_url or "")])
        return tuple(found)

    @property
    def counts_mailings(self) -> bool:
        """Whether any stream needs to know what people were mailed: then marketing is counted."""
        return any(stream.counts_mailings for stream in self.streams.values())

    @property
    def tries_campaigns(self) -> bool:
        """Whether any stream has a trial of new campaigns."""
        return any(stream.trial is not None for stream in self.streams.values())

    @property
    def has_rates(self) -> bool:
        """Whether any client has a rate limit."""
        limited: list[ListenerSettings | Credential] = [*self.listeners, *self.credentials]
        rates = [rate for one in limited for rate in (one.message_rate, one.recipient_rate)]
        return any(rates) or any(one.connection_rate for one in self.listeners)
