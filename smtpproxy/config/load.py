"""From a TOML file to `Settings`, or to all that is wrong with it."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs
from pydantic import BaseModel, ValidationError

from smtpproxy.config import describe, dkim, models, propagation, rulebooks
from smtpproxy.config.checks import cross_check
from smtpproxy.config.content import common_imprint, content_settings
from smtpproxy.config.faults import ConfigError, Fault, report
from smtpproxy.config.tables import as_meant, tables
from smtpproxy.config.toml_text import read_toml
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    ExistingUnsubscribe,
    Mode,
    Nature,
    Rulebook,
    Stream,
    StreamClass,
)
from smtpproxy.policy.rulebooks import RulebookError
from smtpproxy.settings import (
    AuditSettings,
    AuthSettings,
    ControllerSettings,
    Credential,
    DnsSettings,
    DoctorSettings,
    ListenerSettings,
    PartnerSettings,
    PolicySettings,
    RetentionSettings,
    SenderRule,
    ServerSettings,
    Settings,
    StoreSettings,
    UpstreamSettings,
    WebSettings,
)

T = TypeVar("T")


def load(path: Path) -> Settings:
    """Read a configuration file. Raises ConfigError with every fault in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: line {line}: is not UTF-8; save it as UTF-8"]) from error
    return parse(text, str(path))


def parse(text: str, filename: str) -> Settings:
    """Read the text of a configuration. Raises ConfigError with every fault in it."""
    document = read_toml(text, filename)
    meant = as_meant(document, models.Document)
    faults = list(cross_check(meant))
    books, book_faults = _rulebooks(meant)
    faults += book_faults
    try:
        checked = models.Document.model_validate(document)
    except ValidationError as error:
        faults += describe.faults(error, models.Document)
    if faults:
        raise ConfigError(report(filename, meant, faults))
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
    return _settings(checked, books, digest)


def _rulebooks(document: Mapping[str, Any]) -> tuple[dict[str, Rulebook], list[Fault]]:
    """Return the rulebooks by what the file calls them, and what is wrong with the others."""
    books: dict[str, Rulebook] = {}
    faults: list[Fault] = []
    for location, reference in _rulebook_references(document):
        try:
            book = books.get(reference) or rulebooks.read(reference)
        except RulebookError as error:
            faults += [Fault(location, text) for text in error.faults]
            continue
        twin = next((r for r, b in books.items() if b.name == book.name and r != reference), None)
        if twin is not None:
            faults.append(Fault(location, f'its name "{book.name}" is that of {twin} too'))
        books[reference] = book
    return books, faults


def _rulebook_references(
    document: Mapping[str, Any],
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    policy = document.get("policy")
    default = models.Policy.model_fields["rulebook"].default
    reference = policy.get("rulebook", default) if isinstance(policy, dict) else default
    if isinstance(reference, str):
        yield ("policy", "rulebook"), reference
    for index, stream in tables(document, "stream"):
        if isinstance(stream.get("rulebook"), str):
            yield ("stream", index, "rulebook"), stream["rulebook"]


def _settings(document: models.Document, books: Mapping[str, Rulebook], digest: str) -> Settings:
    server = _frozen(ServerSettings, document.server, state_dir=Path(document.server.state_dir))
    if server.workers == 0:
        server = replace(server, workers=len(os.sched_getaffinity(0)))
    policy = PolicySettings(
        rulebook=books[document.policy.rulebook].name,
        mode=Mode(document.policy.mode),
        on_mixed=document.policy.on_mixed,
        frequency_cap=document.policy.frequency_cap,
        imprint=tuple(document.policy.imprint),
        check_recipient_domain=document.policy.check_recipient_domain,
    )
    default = structs.replace(
        DEFAULT_STREAM,
        rulebook=policy.rulebook,
        mode=policy.mode,
        marketing_cap=policy.frequency_cap,
        imprint=common_imprint(policy.imprint, books[document.policy.rulebook]),
    )
    streams = [default, *(_stream(s, policy, books, server.hostname) for s in document.stream)]
    partners = tuple(PartnerSettings(p.name, Path(p.key_file)) for p in document.partner)
    url = document.store.url or f"sqlite://{server.state_dir}/smtpproxy.db"
    return Settings(
        server=server,
        listeners=tuple(
            _frozen(
                ListenerSettings,
                listener,
                streams=tuple(listener.streams),
                proxy_trusted=tuple(listener.proxy_trusted),
                xclient_trusted=tuple(listener.xclient_trusted),
                login_trusted=_tuple(listener.login_trusted),
            )
            for listener in document.listener
        ),
        upstream=_frozen(UpstreamSettings, document.upstream),
        store=_frozen(StoreSettings, document.store, url=url, partners=partners),
        audit=_frozen(AuditSettings, document.audit),
        retention=_frozen(RetentionSettings, document.retention),
        controller=(
            _frozen(
                ControllerSettings,
                document.controller,
                purposes=tuple(document.controller.purposes),
                recipients=tuple(document.controller.recipients),
            )
            if document.controller
            else None
        ),
        web=(
            _frozen(WebSettings, document.web, trusted=tuple(document.web.trusted))
            if document.web
            else None
        ),
        policy=policy,
        streams={stream.name: stream for stream in streams},
        sender_rules=tuple(
            SenderRule(s.address, tuple(s.streams), s.default_stream) for s in document.sender
        ),
        auth=_frozen(AuthSettings, document.auth),
        credentials=tuple(
            _frozen(
                Credential,
                credential,
                streams=_tuple(credential.streams),
                senders=tuple(credential.senders),
                from_domains=frozenset(credential.from_domains),
            )
            for credential in document.credential
        ),
        rulebooks={book.name: book for book in books.values()},
        dkim=dkim.settings(document.dkim),
        dns=_frozen(DnsSettings, document.dns, nameservers=tuple(document.dns.nameservers)),
        doctor=DoctorSettings(tuple(document.doctor.sending_addresses)),
        hash=digest,
        tokens=propagation.tokens(document.token),
        webhooks=propagation.webhooks(document.webhook, books.values()),
    )


def _stream(
    stream: models.Stream, policy: PolicySettings, books: Mapping[str, Rulebook], hostname: str
) -> Stream:
    by_name = {book.name: book for book in books.values()}
    rulebook = books[stream.rulebook] if stream.rulebook else by_name[policy.rulebook]
    return Stream(
        name=stream.name,
        stream_class=StreamClass(stream.stream_class),
        purpose=stream.purpose,
        nature=Nature(stream.nature),
        products=frozenset(stream.products),
        topics=frozenset(stream.topics),
        from_domains=frozenset(stream.from_domains),
        one_click_required=stream.one_click == "required",
        rulebook=rulebook.name,
        mode=Mode(stream.mode) if stream.mode else policy.mode,
        paused=stream.paused,
        max_recipients=stream.max_recipients,
        first_contact_notice=stream.first_contact_notice,
        frequency_cap=stream.frequency_cap,
        marketing_cap=policy.frequency_cap,
        refuse_at_data=stream.refuse_at == "data",
        max_snapshot_age=stream.max_snapshot_age,
        unsubscribe_scope=_unsubscribe_scope(stream),
        existing_unsubscribe=ExistingUnsubscribe(stream.existing_unsubscribe),
        unsubscribe_mailto=stream.unsubscribe_mailto,
        list_id=_list_id(stream, hostname),
        check_dkim=stream.check_dkim and stream.stream_class == "marketing",
        **content_settings(stream, policy.imprint, rulebook),
    )


def _unsubscribe_scope(stream: models.Stream) -> str | None:
    """Return what its links unsubscribe from; None where the relay adds none."""
    if stream.unsubscribe != "add":
        return None
    return "marketing" if stream.unsubscribe_scope == "marketing" else f"purpose:{stream.purpose}"


def _list_id(stream: models.Stream, hostname: str) -> str | None:
    return (stream.list_id or f"{stream.name}.{hostname}") if stream.unsubscribe == "add" else None


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _frozen(cls: type[T], model: BaseModel, **converted: object) -> T:
    """Return the settings class with what the model says under the same names."""
    keys = [f.name for f in fields(cls) if f.name in type(model).model_fields]  # type: ignore[arg-type]
    return cls(**({key: getattr(model, key) for key in keys} | converted))
