"""What is allowed in a configuration but perhaps not intended."""

import ipaddress
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from smtpproxy import toml
from smtpproxy.mail.dmarc import all_aligned
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Alignment,
    Basis,
    Mode,
    Stream,
    StreamClass,
    TrackingPixels,
)
from smtpproxy.policy.periods import beginning, shortest_seconds
from smtpproxy.settings import Address, ListenerSettings, Settings, UnixAddress
from smtpproxy.settings.places import is_loopback
from smtpproxy.terminal import printable
from smtpproxy.toml_tables import Location, key_paths

RFC_RECIPIENTS = 100  # RFC 5321 4.5.3.1.8
RFC_MESSAGE_OCTETS = 64 * 1024  # RFC 5321 4.5.3.1.7


def warnings(settings: Settings) -> list[str]:
    """Return what deserves a second look, each as `key.path: what and why`."""
    found = [*_server(settings)]
    for listener in settings.listeners:
        found += _listener(listener)
        if listener.protocol in ("milter", "policy") and listener.origin is None:
            found.append(
                f'listener "{listener.name}".origin: not set, so an address without a domain is'
                " refused here: give the MTA's own domain (Postfix: myorigin)"
            )
        if listener.protocol == "policy":
            found += _policy_listener(listener, settings)
    if settings.web is None:
        found.append("web: not set, so there are no metrics, health checks or unsubscribe pages")
    elif _public(settings.web.address):
        found.append(f"web.address: {settings.web.address} can be reached from outside")
    more = (_help, _feedback, _brands, _streams, _permission, _sender_rules, _propagation)
    return [*found, *(one for of in (*more, _dkim, _content) for one in of(settings))]


def _server(settings: Settings) -> Iterator[str]:
    server = settings.server
    if "." not in server.hostname:
        yield f'server.hostname: "{server.hostname}" is not a fully qualified name; other'
        " servers may reject it"
    if server.data_size_limit < RFC_MESSAGE_OCTETS:
        yield "server.data_size_limit: below the 64 KiB that RFC 5321 requires"


def _help(settings: Settings) -> Iterator[str]:
    url, own = settings.policy.help_url, settings.web and settings.web.public_url
    if url and own and f"{url}/".startswith(f"{own}/") and url != f"{own}/why":
        yield f'policy.help_url: there is no page there; the pages about reasons are at "{own}/why"'


def _feedback(settings: Settings) -> Iterator[str]:
    feedback = settings.feedback
    if feedback is None:
        return
    if feedback.address is not None and _public(feedback.address):
        yield f"feedback.address: {feedback.address} can be reached from outside: protect the port"
    if not feedback.require_token and feedback.authenticate != "required":
        yield (
            "feedback.require_token: no, so whoever can send mail can have anybody suppressed by a"
            ' forged report: set authenticate = "required", or leave both out'
        )
    for stream in settings.streams.values():
        yield from _returning(settings, stream, feedback.domain)


def _returning(settings: Settings, stream: Stream, domain: str) -> Iterator[str]:
    """Yield the From domains whose mail `verp` has refused: nothing that aligns vouches for it."""
    if not stream.verp or stream.alignment is Alignment.OFF:
        return
    strict = stream.alignment is Alignment.STRICT
    unvouched = [
        own
        for own in sorted(stream.from_domains)
        if not all_aligned([own], [domain], strict=strict)
        and not _signs_domain(settings, own, stream.name)
    ]
    if not stream.from_domains and not settings.dkim:
        unvouched = ["other domains"]
    for own in unvouched:
        yield (
            f'stream "{stream.name}".alignment: its mail leaves with a reverse path at {domain}'
            f" (verp), which does not align with {own}: mail from there is refused"
            " (from_misaligned), unless the app signs it. Add a [[dkim]] key of that domain; if"
            " the apps sign, leave it as it is"
        )


def _listener(listener: ListenerSettings) -> Iterator[str]:
    where = f'listener "{listener.name}"'
    if _public(listener.address) and listener.auth != "required":
        yield (
            f"{where}.address: {listener.address} can be reached from outside, and anyone who"
            " reaches it may send: protect the port"
        )
    if listener.auth_without_tls and not is_loopback(listener.address):
        yield f"{where}.auth_without_tls: passwords cross the network in the clear"
    if listener.tls == "starttls" and not listener.require_tls and listener.auth != "required":
        yield f"{where}.require_tls: not set, so clients may ignore TLS and send in the clear"
    yield from _trusted(listener)
    if not listener.streams:
        yield (
            f"{where}.streams: none, so all its mail is on the stream {DEFAULT_STREAM.name}"
            f" (marketing, purpose {DEFAULT_STREAM.purpose})"
        )
    if listener.max_recipients < RFC_RECIPIENTS:
        yield f"{where}.max_recipients: below the 100 that RFC 5321 requires"


def _trusted(listener: ListenerSettings) -> Iterator[str]:
    where = f'listener "{listener.name}"'
    if listener.proxy_protocol and listener.xclient_trusted:
        yield f"{where}.xclient_trusted: XCLIENT is never offered behind a PROXY header"
    for each in listener.login_trusted or ():
        if each != "unix" and not _single(ipaddress.ip_network(each)):
            yield (
                f"{where}.login_trusted: anyone who takes an address of {each} needs no"
                " password: name individual hosts"
            )


def _single(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return network.num_addresses == 1 or network.is_loopback


def _policy_listener(listener: ListenerSettings, settings: Settings) -> Iterator[str]:
    """Yield what a listener cannot do because it sees neither header nor content."""
    where = f'listener "{listener.name}".streams'
    names = dict.fromkeys((listener.default_stream or DEFAULT_STREAM.name, *listener.streams))
    if len(names) > 1:
        yield (
            f"{where}: a policy listener does not see the stream header, so only recipients"
            " whom every stream refuses are refused: give it one stream, or sender rules"
        )
    for stream in [settings.streams[name] for name in names if name in settings.streams]:
        if stream.counts_mailings:
            yield (
                f'{where}: a policy listener does not count mail, so "{stream.name}" has no'
                " frequency cap and no check of first messages there"
            )
        if stream.tracking_pixels is TrackingPixels.REFUSE:
            yield (
                f"{where}: a policy listener does not see the message, so it neither finds nor"
                f' refuses tracking pixels, whatever tracking_pixels of "{stream.name}" says'
            )
        if stream.refuse_at_data:
            yield (
                f"{where}: a policy listener refuses at RCPT, whatever refuse_at of"
                f' "{stream.name}" says'
            )


def _streams(settings: Settings) -> Iterator[str]:
    usable = {DEFAULT_STREAM.name}.union(*(listener.streams for listener in settings.listeners))
    observing = settings.policy.mode is Mode.OBSERVE
    if observing:
        yield 'policy.mode: "observe", so mail that should be refused passes'
    for stream in settings.streams.values():
        where = f'stream "{stream.name}"'
        if stream.mode is Mode.OBSERVE and not observing:
            yield f'{where}.mode: "observe", so its mail that should be refused passes'
        marketing = stream.stream_class is StreamClass.MARKETING
        if marketing and Basis.OPT_OUT in settings.rulebooks[stream.rulebook].bases:
            yield (
                f'{where}.rulebook: "{stream.rulebook}" has the basis opt_out, so mail passes to'
                " everyone who has not objected"
            )
        if stream.paused:
            yield f"{where}.paused: its marketing mail is deferred until it is no longer paused"
        signed = any(not key.streams or stream.name in key.streams for key in settings.dkim)
        if stream.unsubscribe_scope is not None and not signed:
            yield (
                f'{where}.unsubscribe: "add", and no [[dkim]] key signs its mail: providers show'
                " their button only if a signature covers the fields (RFC 8058 section 4); have"
                " the MTA behind the relay sign them"
            )
        if stream.name not in usable:
            yield f"{where}: no listener may use it"


def _brands(settings: Settings) -> Iterator[str]:
    """Yield purposes that two brands share, which suppressions do not distinguish, and names."""
    titles: dict[str | None, str] = {}
    for brand in settings.declared_brands:
        other = titles.setdefault(brand.title or brand.legal_name, brand.name)
        if other != brand.name:
            yield (
                f'brand "{brand.name}".title: the same name as that of brand "{other}", so people'
                " cannot tell their pages and mail apart; give each its own title"
            )
    brands: dict[str, str] = {}
    for stream in settings.streams.values():
        if stream.purpose is None or stream.name == DEFAULT_STREAM.name:
            continue
        other = brands.setdefault(stream.purpose, stream.brand)
        if other != stream.brand:
            yield (
                f'stream "{stream.name}".purpose: "{stream.purpose}" is a purpose of brand'
                f' "{other}" too: consent to one is not consent to the other, but an order not to'
                " mail for this purpose stops both; give each brand its own"
            )


def _permission(settings: Settings) -> Iterator[str]:
    """Yield the streams that ask people whose contacts are removed before they may be asked."""
    keep, moment = settings.retention.prospects, datetime(2026, 1, 1, tzinfo=UTC)
    for stream in settings.streams.values():
        period = settings.rulebooks[stream.rulebook].consent_period
        if stream.permission and period and beginning(moment, keep) > beginning(moment, period):
            yield (
                f'stream "{stream.name}".class: asks people when their {period} are over, and'
                f" retention.prospects ({keep}) removes them before"
            )


def _sender_rules(settings: Settings) -> Iterator[str]:
    for rule in settings.sender_rules:
        if not any(set(rule.streams) & set(listener.streams) for listener in settings.listeners):
            yield f'sender "{rule.sender}": no listener may use any of its streams'


def _public(address: Address) -> bool:
    """Whether the address is all of this machine's, or a public one."""
    if isinstance(address, UnixAddress):
        return False
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return ip.is_unspecified or ip.is_global


def _dkim(settings: Settings) -> Iterator[str]:
    """Yield what deserves a second look, as `key.path: what and why`."""
    if not settings.dkim:
        return
    for listener in settings.listeners:
        if listener.protocol == "milter":
            yield (
                f'listener "{listener.name}".protocol: [[dkim]] does not sign what a milter is'
                " asked about: have the MTA sign it"
            )
    for stream in settings.streams.values():
        where = f'stream "{stream.name}".from_domains'
        unsigned = sorted(
            d for d in stream.from_domains if not _signs_domain(settings, d, stream.name)
        )
        if unsigned:
            yield f"{where}: no [[dkim]] key signs the mail of {', '.join(unsigned)} on it"
        elif not stream.from_domains and stream.name != "default":
            yield f"{where}: none, so mail of domains without a [[dkim]] key leaves unsigned"


def _signs_domain(settings: Settings, domain: str, stream: str) -> bool:
    return any(
        key.signs(domain) and (not key.streams or stream in key.streams) for key in settings.dkim
    )


def _content(settings: Settings) -> Iterator[str]:
    """Yield the streams whose rulebook requires what is not checked."""
    for stream in settings.streams.values():
        marketing = stream.stream_class is StreamClass.MARKETING
        book = settings.rulebooks.get(stream.rulebook)
        used = any(
            stream.name in listener.streams or listener.default_stream is None
            for listener in settings.listeners
        )
        if marketing and used and book is not None and book.imprint_required and not stream.imprint:
            yield (
                f'stream "{stream.name}".imprint: not set, and rulebook "{book.name}" requires'
                " the sender's postal address in each message: it is not checked"
                " (policy.imprint applies to all streams)"
            )
        own = marketing and used and stream.name != DEFAULT_STREAM.name
        shown = stream.body_optout or stream.unsubscribe_scope is not None
        if own and book is not None and book.notice_each_use and not shown:
            yield (
                f'stream "{stream.name}".body_optout: not set, and rulebook "{book.name}"'
                " requires each message to say how to unsubscribe: set it, or"
                ' unsubscribe = "add", or ensure it yourself'
            )


def _propagation(settings: Settings) -> Iterator[str]:
    """Yield what deserves a second look, as `key.path: what and why`."""
    for webhook in settings.webhooks:
        where = f'webhook "{webhook.name}"'
        for scope in sorted(webhook.scopes):
            if not settings.scopes.knows(scope):
                yield f"{where}.scopes: {scope} is not configured: the receiver hears nothing of it"
        late = [
            f"{book.name} ({book.honour_within})"
            for book in settings.rulebooks.values()
            if shortest_seconds(book.honour_within) < webhook.deadline
        ]
        if late:
            yield (
                f"{where}.deadline: later than the honour_within of {', '.join(late)}:"
                " objections must be honoured by then"
            )
        if webhook.give_up_after > webhook.deadline:
            yield (
                f"{where}.give_up_after: later than its deadline, so an undeliverable change"
                " is overdue before it becomes a dead letter"
            )
        if "added" not in webhook.events and webhook.events & {"moved", "lifted"}:
            yield f'{where}.events: without "added" the receiver never learns whom not to mail'
    if settings.tokens and settings.web is None:
        yield "token: useless without a [web] address"


_NAME = re.compile(
    r"(?<![\w.-])(?:[a-z0-9-]+\.)*(?:example\.(?:com|net|org)|[a-z0-9-]+\.example)(?![\w-]|\.\w)",
    re.IGNORECASE,
)
"""A domain name reserved for examples (RFC 2606, sections 2 and 3)."""
_NETWORKS = [
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
"""Addresses reserved for documentation (RFC 5737, RFC 3849)."""
_ADDRESS = re.compile(r"(?<![\w.:])[0-9a-f]*[.:][0-9a-f.:]+(?![\w.:])", re.IGNORECASE)


def example_values(path: Path) -> list[str]:
    """Return a warning about each value of a valid file that only an example would have."""
    document = toml.read(path)
    values = [(at, found) for at, text in _texts(document, ()) for found in _examples(text)]
    paths = key_paths(document, [at for at, _ in values])
    return [
        printable(f'{path}: "{found}" is from the example: use your own')
        for path, (_, found) in zip(paths, values, strict=True)
    ]


def _texts(value: object, location: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(value, str) and not value.startswith("/"):
        yield location, value
    children = value.items() if isinstance(value, dict) else ()
    for key, child in children:
        yield from _texts(child, (*location, key))
    for index, child in enumerate(value if isinstance(value, list) else ()):
        within = isinstance(child, dict)  # the entries of a list of values share its name
        yield from _texts(child, (*location, index) if within else location)


def _examples(text: str) -> Iterator[str]:
    yield from _NAME.findall(text)
    for found in _ADDRESS.findall(text):
        try:
            ip = ipaddress.ip_address(found.rpartition(":")[0] if found.count(":") == 1 else found)
        except ValueError:
            continue
        if any(ip in network for network in _NETWORKS):
            yield str(ip)
