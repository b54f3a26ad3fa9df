"""Consistency between tables: names defined once, addresses that do not clash.

These check the file as it was read, whatever its other faults, so that somebody correcting it sees
everything at once.
"""

import ipaddress
from collections.abc import Container, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from smtpproxy.config.access_checks import ANSWERING, access_checks
from smtpproxy.config.brands import brand_checks
from smtpproxy.config.confirmations import confirmation_checks
from smtpproxy.policy.model import (
    CONFIRMATION_STREAM,
    DEFAULT_STREAM,
    NOTICE_STREAM,
    PERSONAL_STREAM,
)
from smtpproxy.settings import Address, StreamSettings, TcpAddress, UnixAddress
from smtpproxy.settings.places import address as read_address
from smtpproxy.terminal import few
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Fault, Location, key_path, keys_of, table, tables, value_at

Document = Mapping[str, Any]

_TAKEN = "{name} is taken by {place}: choose another"
_NAMED = {
    ("listener", "name"): _TAKEN,
    ("stream", "name"): _TAKEN,
    ("brand", "name"): _TAKEN,
    ("sender", "address"): "{name} is in {place} too: write a single rule",
    ("token", "name"): _TAKEN,
    ("token", "sha256"): _TAKEN,
    ("webhook", "name"): _TAKEN,
    ("partner", "name"): _TAKEN,
    ("dkim", "domain", "selector"): "{name} is also that of {place}: each key needs its own,"
    " even if one is RSA and the other Ed25519 (RFC 8463 section 3)",
}
"""Tables, the keys that identify an entry, and what to say of a second one."""


def cross_check(document: Document) -> Iterator[Fault]:
    """Yield the faults that no table shows by itself."""
    yield from _unique_names(document)
    yield from _streams(document)
    yield from brand_checks(document)
    for section in ("listener", "sender", "credential", "dkim"):
        yield from _stream_choice(document, section)
    yield from _number_of_listeners(document)
    yield from _addresses(document)
    yield from _standby(document)
    yield from access_checks(document)
    yield from _content(document)
    yield from _unsubscribe(document)
    yield from _tracking(document)
    yield from _verp(document)
    yield from confirmation_checks(document)


def _unique_names(document: Document) -> Iterator[Fault]:
    for (section, *keys), text in _NAMED.items():
        seen: dict[tuple[str, ...], int] = {}
        for index, entry in tables(document, section):
            names = [entry.get(key) for key in keys]
            if not all(isinstance(name, str) for name in names):
                continue
            first = seen.setdefault(tuple(str(name).lower() for name in names), index)
            if first != index:
                place = f"{section}[{first}]"
                said = text.format(name=shown(names[-1]), place=place)
                yield Fault((section, index, keys[-1]), said)


_BUILT_IN = {
    DEFAULT_STREAM.name: "mail that declares no stream",
    NOTICE_STREAM.name: "notifications of the relay's own",
    CONFIRMATION_STREAM.name: "the relay's own mail to people",
    PERSONAL_STREAM.name: "links to what is stored about people",
}


def _streams(document: Document) -> Iterator[Fault]:
    for index, stream in tables(document, "stream"):
        if stream.get("name") in [*_BUILT_IN]:  # anything but text is reported elsewhere
            yield Fault(
                ("stream", index, "name"),
                f'"{stream["name"]}" is built in, for {_BUILT_IN[stream["name"]]}:'
                " choose another name",
            )
        if stream.get("class") in ("marketing", "permission") and "purpose" not in stream:
            yield Fault(
                ("stream", index, "purpose"),
                f"missing; a {stream['class']} stream says what people consented to,"
                ' for example purpose = "newsletter"',
            )
        if "max_snapshot_age" in stream and not document.get("partner"):
            yield Fault(
                ("stream", index, "max_snapshot_age"),
                "there is no [[partner]] whose snapshot it could apply to: add one, or leave"
                " it out",
            )


def _stream_choice(document: Document, section: str) -> Iterator[Fault]:
    """Yield the faults in `streams` and `default_stream` of a listener or sender rule."""
    defined = [DEFAULT_STREAM.name]
    defined += [s["name"] for _, s in tables(document, "stream") if isinstance(s.get("name"), str)]
    known = frozenset(defined)
    undefined: dict[str, str] = {}  # thousands of rules may name the same
    for index, entry in tables(document, section):
        named = entry.get("streams", [])
        if not isinstance(named, list):
            continue
        for at, stream in enumerate(named):
            if isinstance(stream, str) and stream not in known:
                text = undefined.get(stream) or _undefined(stream, defined)
                undefined[stream] = text
                yield Fault((section, index, "streams", at), text)
            elif stream in named[:at]:
                yield Fault((section, index, "streams", at), f'"{stream}" is listed twice')
        chosen = entry.get("default_stream")
        if isinstance(chosen, str) and chosen not in named:
            names = few(dict.fromkeys(map(shown, named)), shown(chosen))
            right = f"one of {names}" if names else "leave it out, or set streams"
            yield Fault(
                (section, index, "default_stream"),
                f"{shown(chosen)} is not among streams: {right}",
            )


def _undefined(stream: str, defined: list[str]) -> str:
    near = get_close_matches(stream, defined, n=1)
    hint = (
        f'; did you mean "{near[0]}"?'
        if near
        else f": add a [[stream]] with name = {shown(stream)}"
    )
    return f"no stream {shown(stream)} is defined{hint}"


def _standby(document: Document) -> Iterator[Fault]:
    store = table(document, "store")
    url, replica = store.get("url"), store.get("replica_url")
    none = "a store in SQLite has no standby: set store.url to {}, or leave this out"
    is_file = not str(url).startswith("postgresql://")
    if store.get("require_synchronous") is True and is_file:
        yield Fault(("store", "require_synchronous"), none.format("a PostgreSQL database"))
    if replica is None and "max_replica_lag" in store:
        text = "there is no replica_url whose lag it could limit: add one, or leave it out"
        yield Fault(("store", "max_replica_lag"), text)
    elif replica is not None and is_file:
        yield Fault(("store", "replica_url"), none.format("the primary"))
    elif replica is not None and replica == url:
        text = "is store.url itself: name the standby, or leave it out"
        yield Fault(("store", "replica_url"), text)


_MOST_LISTENERS = 240
"""Their sockets, and a few others, are handed to a worker in one message of the kernel."""


def _number_of_listeners(document: Document) -> Iterator[Fault]:
    number = len([*tables(document, "listener")])
    if number > _MOST_LISTENERS:
        yield Fault(
            ("listener", _MOST_LISTENERS),
            f"there are {number} listeners: a relay has at most {_MOST_LISTENERS}",
        )


def _addresses(document: Document) -> Iterator[Fault]:
    bound: list[tuple[Location, Address]] = []
    places: list[Location] = [("listener", i, "address") for i, _ in tables(document, "listener")]
    for place in (*places, ("web", "address"), ("feedback", "address")):
        address = _address(document, place)
        if address is None:
            continue
        for other_place, other in bound:
            if _meet(address, other):
                where = key_path(document, other_place)
                yield Fault(place, f"{address} is taken by {where} ({other}): choose another")
                break
        bound.append((place, address))
    upstream = _address(document, ("upstream", "address"))
    for place, address in bound:
        if upstream is not None and _meet(upstream, address):
            where = key_path(document, place)
            yield Fault(
                ("upstream", "address"),
                f"{upstream} is where {where} listens, so mail would loop:"
                " give the address of the MTA behind the relay",
            )
            break


def _address(document: Document, place: Location) -> Address | None:
    try:
        return read_address(value_at(document, place))
    except ValueError:
        return None  # a separate fault


def _meet(one: Address, other: Address) -> bool:
    """Whether both are the same socket, as far as is known without asking the network."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port:
        return False
    return _host(one) == _host(other) or _wildcard(one, other) or _wildcard(other, one)


def _wildcard(everywhere: TcpAddress, other: TcpAddress) -> bool:
    """Whether `everywhere` is all addresses of a family, and `other` certainly one of them."""
    host, there = _host(everywhere), _host(other)
    if isinstance(host, str) or isinstance(there, str) or host.version != there.version:
        return False
    return host.is_unspecified and there.is_loopback


def _host(address: TcpAddress) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return host


_ON_MARKETING = ("campaign_trial", "body_optout", "imprint", "source_statement", "honest_subject")
_CONSEQUENCES = ("refuse", "marketing")
_ON_TRANSACTIONAL = ("undeclared_bulk", "bulk_recipients", "bulk_window")


def _content(document: Document) -> Iterator[Fault]:
    """Yield the keys that are set but would do nothing."""
    for index, stream in tables(document, "stream"):
        kind = stream.get("class")
        others = {
            "marketing": _ON_TRANSACTIONAL,
            "permission": _ON_TRANSACTIONAL,
            "transactional": _ON_MARKETING,
        }.get(str(kind), ())
        for key in others:
            if stream.get(key) not in (None, False, [], "observe"):
                yield Fault(
                    ("stream", index, key), f"does nothing on a {kind} stream: leave it out"
                )
        if stream.get("source_statement") and stream.get("first_contact_notice") is not True:
            yield Fault(
                ("stream", index, "source_statement"),
                "is checked only in first messages: set first_contact_notice = true",
            )
        counted = "bulk_recipients" in stream or stream.get("undeclared_bulk") in _CONSEQUENCES
        if "bulk_window" in stream and not counted and kind == "transactional":
            yield Fault(
                ("stream", index, "bulk_window"),
                "does nothing without bulk_recipients: set bulk_recipients = 100, or leave it out",
            )


def _verp(document: Document) -> Iterator[Fault]:
    """Yield the faults of streams whose bounces are to come back to the relay."""
    returning = set()
    for index, stream in tables(document, "stream"):
        if stream.get("verp") is not True:
            continue
        returning.add(stream.get("name"))
        if not isinstance(document.get("feedback"), dict):
            yield Fault(
                ("stream", index, "verp"),
                "needs an address for bounces to come back to: add [feedback] with domain ="
                ' "bounces.example.com"',
            )
    yield from _left_to_the_mta(document, returning, "verp = true")


_OF_ADDING = ("existing_unsubscribe", "unsubscribe_scope", "unsubscribe_mailto", "list_id")


def _unsubscribe(document: Document) -> Iterator[Fault]:
    """Yield the faults of streams whose unsubscribe headers the relay is to add."""
    public = "public_url" in table(document, "web")
    adding = set()
    for index, stream in tables(document, "stream"):
        if stream.get("unsubscribe") != "add":
            yield from _without_adding(index, stream)
            continue
        adding.add(stream.get("name"))
        place = ("stream", index, "unsubscribe")
        if stream.get("class") == "transactional":
            yield Fault(place, '"add" is for marketing streams: leave it out')
        elif not public:
            yield Fault(
                place,
                '"add" needs the address of the links: set web.public_url, for example'
                ' "https://unsubscribe.example.com"',
            )
    yield from _left_to_the_mta(document, adding, 'unsubscribe = "add"')


def _left_to_the_mta(
    document: Document,
    named_so: Container[object],
    setting: str,
    what: str = "give each recipient a separate message",
) -> Iterator[Fault]:
    """Yield streams of milter and policy listeners for which the relay must change messages."""
    for index, listener in tables(document, "listener"):
        named = listener.get("streams")
        if listener.get("protocol") not in ANSWERING or not isinstance(named, list):
            continue
        for at, name in enumerate(named):
            if isinstance(name, str) and name in named_so:
                yield Fault(
                    ("listener", index, "streams", at),
                    f'"{name}" has {setting}, and a {listener["protocol"]} listener'
                    f" cannot {what}: use another stream there",
                )


def _tracking(document: Document) -> Iterator[Fault]:
    """Yield the listeners whose MTA keeps messages that a stream has to change."""
    common = table(document, "policy").get("tracking_pixels")
    stripped = {
        stream.get("name")
        for _, stream in tables(document, "stream")
        if stream.get("tracking_pixels", common if stream.get("class") == "marketing" else None)
        == "strip"
    }
    yield from _left_to_the_mta(
        document, stripped, 'tracking_pixels = "strip"', "change a message's text"
    )


def _without_adding(index: int, stream: Mapping[str, Any]) -> Iterator[Fault]:
    for key in _OF_ADDING:
        if key in stream and not keys_of(StreamSettings)[key].is_default(stream[key]):
            yield Fault(("stream", index, key), 'does nothing without unsubscribe = "add"')
