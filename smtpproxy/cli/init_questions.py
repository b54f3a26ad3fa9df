"""The questions of `smtpproxy init`; each answer is checked at once, as its setting is."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smtpproxy.cli import fail
from smtpproxy.cli.init import InitOptions
from smtpproxy.cli.prompter import NOTHING, Prompter
from smtpproxy.config import read_rulebook
from smtpproxy.disk import is_dir
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, RulebookError
from smtpproxy.resolver import Resolver
from smtpproxy.settings import (
    Address,
    BrandSettings,
    DkimSettings,
    DnsSettings,
    ListenerSettings,
    PolicySettings,
    ServerSettings,
    StreamSettings,
    TcpAddress,
    UpstreamSettings,
    WebSettings,
)
from smtpproxy.settings.places import nameserver
from smtpproxy.setup.answers import Answers, Route
from smtpproxy.setup.machine import Machine, takes_mail
from smtpproxy.toml import shown
from smtpproxy.toml_tables import read_key

_MTA_PORTS = (10025, 25, 587)
"""Where an MTA on this machine would accept mail, best first."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def questions(
    options: InitOptions, machine: Machine, prompter: Prompter, year: int, timeout: float
) -> Answers:
    """Return all answers. `timeout`: seconds for the DNS.

    Ends the command with exit 2 if one is wrong or missing.
    """
    servers = prompter.many("--nameserver", "", nameserver, options.nameserver, optional=True)
    own = machine.postfix.get("myhostname", machine.hostname)
    hostname = prompter.one(
        "--hostname", "Name of this relay, as other servers see it",
        _key(ServerSettings, "hostname"), options.hostname, own if "." in own else None,
    )  # fmt: skip
    route = _route(options, machine, prompter)
    upstream = _upstream(options, machine, prompter, route)
    listen = prompter.one(
        "--listen", "Where smtpproxy should listen",
        partial(_listen, route, upstream), options.listen,
        f"127.0.0.1:{machine.free_port(route.port)}",
    )  # fmt: skip
    domain = _own_domain(machine, hostname, servers, timeout)
    brands = _brands(options, prompter, domain)
    rulebook = prompter.one(
        "--rulebook", f"Rulebook, by country ({', '.join(sorted(BUILTIN_NAMES))})",
        _rulebook, options.rulebook, _rulebook_of(brands),
    )  # fmt: skip
    streams = _streams(options, prompter, brands, rulebook)
    public_url = _public_url(options, prompter, route)
    selector = _selector(options, machine, prompter, route, year)
    web = prompter.one(
        "--web", "", _key(WebSettings, "address"),
        options.web or f"127.0.0.1:{machine.free_port(8025)}",
    )  # fmt: skip
    state = prompter.one("--state-dir", "", _state_dir, str(options.state_dir))
    prompter.check_complete()
    if not streams:
        fail("no stream: give --marketing or --transactional", 2)
    assert hostname
    assert upstream
    assert listen
    assert rulebook
    assert web
    assert state
    return Answers(
        hostname=hostname,
        route=route,
        upstream=upstream,
        listen=listen,
        web=web,
        state_dir=state,
        rulebook=rulebook,
        brands=brands,
        streams=streams,
        public_url=public_url,
        selector=selector,
        nameservers=servers,
    )


def _key(record: type, name: str) -> Callable[[str], Any]:
    return partial(read_key, record, name)


def _state_dir(text: str) -> Path:
    folder: Path = read_key(ServerSettings, "state_dir", text)
    if os.path.lexists(folder) and not is_dir(folder):
        raise ValueError(f"{shown(text)} exists, and is not a folder")
    return folder


def _route(options: InitOptions, machine: Machine, prompter: Prompter) -> Route:
    def read(text: str) -> Route:
        try:
            return Route(text.strip())
        except ValueError:
            raise ValueError(f"{shown(text)} is not one of {', '.join(Route)}") from None

    proposal = Route.RELAYHOST if machine.postfix.get("relayhost") else Route.APPS
    question = f"How mail gets to smtpproxy ({', '.join(Route)}; docs/deploy)"
    return prompter.one("--route", question, read, options.route, proposal) or proposal


def _upstream(
    options: InitOptions, machine: Machine, prompter: Prompter, route: Route
) -> Address | None:
    def read(text: str) -> Address:
        address: Address = read_key(UpstreamSettings, "address", text)
        if route.upstream and not isinstance(address, TcpAddress):
            raise ValueError(f"{shown(text)}: Postfix will listen there: write host:port")
        return address

    near = next((port for port in _MTA_PORTS if port in machine.ports), None)
    proposal = f"127.0.0.1:{near}" if near else None
    if route is Route.RELAYHOST:
        proposal = _relayhost(machine.postfix.get("relayhost", ""))
    given = options.upstream or route.upstream or None
    question = "Where the MTA behind smtpproxy listens (host:port)"
    return prompter.one("--upstream", question, read, given, proposal)


def _relayhost(text: str) -> str | None:
    """Return where Postfix sends mail now, as an address; None if it looks up MX records."""
    found = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", text)
    if found is None:
        return None
    host = f"[{found[1]}]" if ":" in found[1] else found[1]
    return f"{host}:{found[2] or 25}"


def _listen(route: Route, upstream: Address | None, text: str) -> Address:
    address: Address = read_key(ListenerSettings, "address", text)
    if address == upstream:
        raise ValueError(f"{shown(text)} is where the MTA behind smtpproxy listens: choose another")
    if route is not Route.APPS and not isinstance(address, TcpAddress):
        raise ValueError(f"{shown(text)}: Postfix will connect there: write host:port")
    return address


def _own_domain(
    machine: Machine, hostname: str | None, servers: tuple[TcpAddress, ...], timeout: float
) -> str | None:
    """Return the parent domain of the machine's name, if it is known to accept mail."""
    domain = machine.postfix.get("mydomain") or (hostname or "").partition(".")[2]

    async def ask() -> bool:
        resolver = Resolver(DnsSettings(servers, timeout), time.monotonic)
        return await takes_mail(domain, resolver.lookup, timeout)

    return domain if "." in domain and asyncio.run(ask()) else None


def _brands(
    options: InitOptions, prompter: Prompter, domain: str | None
) -> tuple[BrandSettings, ...]:
    proposal = re.sub(r"[^a-z0-9-]", "", domain.partition(".")[0].lower()) if domain else None
    question = "Brands that write to people, as short names"
    read = _key(BrandSettings, "name")
    names = prompter.many("--brand", question, read, options.brand, proposal) or ("",)
    legal = _of("--legal-name", options.legal_name, names)
    places = _of("--postal-address", options.postal_address, names)
    helps = _of("--help-address", options.help_address, names)
    domains = _of("--from-domain", options.from_domain, names)
    found = []
    for name in names:
        by = f"{name}: " if len(names) > 1 else ""
        found.append(
            BrandSettings(
                name,
                legal_name=prompter.one(
                    "--legal-name", f"{by}Legal name of whoever is responsible for the mail",
                    _key(BrandSettings, "legal_name"), _last(legal[name]),
                ),
                address=prompter.one(
                    "--postal-address", f"{by}Postal address, on one line",
                    _key(BrandSettings, "address"), _last(places[name]),
                ),
                from_domains=frozenset(
                    prompter.many(
                        "--from-domain", f"{by}From domains", _domain, domains[name],
                        domain if name == names[0] else None,
                    )
                ),
                help=prompter.one(
                    "--help-address", f"{by}Address where people reach a person",
                    _key(BrandSettings, "help"), _last(helps[name]), optional=True,
                ),
            )
        )  # fmt: skip
    return tuple(found)


def _domain(text: str) -> str:
    (domain,) = read_key(BrandSettings, "from_domains", [text])
    if "." not in str(domain):
        raise ValueError(f"{shown(text)} is not a domain that others know, such as shop.example")
    return str(domain)


def _of(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Return an option's values by name: from `NAME=VALUE`, or VALUE if there is only one name.

    Any other name was misspelt, and ends the command.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    if values and not names:
        fail(f"{option}: there is no stream for it; give --marketing", 2)
    for value in values:
        name, equals, rest = value.partition("=")
        if equals and name in found:
            found[name].append(rest)
        elif len(names) == 1 and not (equals and _NAME.fullmatch(name)):
            found[names[0]].append(value)
        else:
            fail(f"{option}: {shown(value)} names nothing known; write {'=…, '.join(names)}=…", 2)
    return found


def _last(values: Sequence[str]) -> str | None:
    return values[-1] if values else None


def _rulebook(text: str) -> str:
    try:
        read_rulebook(text)
    except RulebookError as error:
        raise ValueError("; ".join(error.faults)) from None
    return text


def _rulebook_of(brands: Sequence[BrandSettings]) -> str:
    """Propose the law of the country that a From domain is in."""
    ends = {domain.rpartition(".")[2] for brand in brands for domain in brand.from_domains}
    known = sorted(ends & set(BUILTIN_NAMES))
    return known[0] if len(known) == 1 else PolicySettings().rulebook


def _streams(
    options: InitOptions,
    prompter: Prompter,
    brands: Sequence[BrandSettings],
    rulebook: str | None,
) -> tuple[StreamSettings, ...]:
    """Return the streams: if any option names one, only those that options name."""
    names = [brand.name for brand in brands]
    marketing = _of("--marketing", options.marketing, names)
    transactional = _of("--transactional", options.transactional, names)
    named = bool(options.marketing or options.transactional)
    known: list[tuple[BrandSettings, str, bool]] = []
    for brand in brands:
        before = f"{brand.name}-" if len(brands) > 1 else ""
        for option, what, given, usual in (
            ("--marketing", "marketing mail, such as offers", marketing, "offers"),
            ("--transactional", "transactional mail, such as receipts", transactional, "receipts"),
        ):
            if named and not given[brand.name]:
                continue
            by = f"{brand.name}: streams" if before else "Streams"
            found = prompter.many(
                option, f"{by} of {what}, as short names", _key(StreamSettings, "name"),
                given[brand.name], before + usual, optional=not named,
            )  # fmt: skip
            known += [(brand, name, option == "--marketing") for name in found]
    return tuple(_stream(known, options, prompter, rulebook))


def _stream(
    known: Sequence[tuple[BrandSettings, str, bool]],
    options: InitOptions,
    prompter: Prompter,
    rulebook: str | None,
) -> Iterator[StreamSettings]:
    asked = [name for _, name, marketing in known if marketing]
    purposes = _of("--purpose", options.purpose, asked)
    products = _of("--product", options.product, asked)
    imprint = rulebook is not None and read_rulebook(rulebook).imprint_required
    for brand, name, marketing in known:
        if not marketing:
            yield StreamSettings(name, "transactional", brand.name)
            continue
        purpose = prompter.one(
            "--purpose", f"{name}: what people consent to", _key(StreamSettings, "purpose"),
            _last(purposes[name]) or (None if prompter.interactive else name), name,
        )  # fmt: skip
        sold = prompter.many(
            "--product", f"{name}: what is advertised, separated by commas",
            _product, products[name], optional=True, between=",",
        )  # fmt: skip
        yield StreamSettings(
            name,
            "marketing",
            brand.name,
            purpose=purpose or name,
            products=frozenset(sold),
            imprint=(brand.address,) if imprint and brand.address else (),
        )


def _product(text: str) -> str:
    (product,) = read_key(StreamSettings, "products", [text])
    return str(product)


def _public_url(options: InitOptions, prompter: Prompter, route: Route) -> str | None:
    if not route.relays:
        _not_with(
            route,
            "--public-url",
            options.public_url,
            "adds no links: have the applications add them",
        )
        return None
    return prompter.one(
        "--public-url", "Web address of the unsubscribe pages, if smtpproxy is to add the links",
        _key(WebSettings, "public_url"), options.public_url, optional=True,
    )  # fmt: skip


def _not_with(route: Route, option: str, given: str | None, why: str) -> None:
    if given not in (None, NOTHING):
        fail(f"{option}: with --route {route} smtpproxy {why}", 2)


def _selector(
    options: InitOptions, machine: Machine, prompter: Prompter, route: Route, year: int
) -> str | None:
    if not route.relays:
        _not_with(route, "--selector", options.selector, "signs nothing: have Postfix sign")
        return None
    signs = bool(machine.postfix.get("smtpd_milters"))  # one of Postfix's milters may sign
    return prompter.one(
        "--selector", "Selector under which new DKIM keys are published",
        _key(DkimSettings, "selector"), options.selector, None if signs else f"s{year}",
        optional=True,
    )  # fmt: skip
