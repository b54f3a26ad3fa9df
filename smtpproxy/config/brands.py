"""Brands: which streams and From domains belong to which brand, and what follows from that.

A brand is what people know, and what they agree to hear from. If the configuration names none, all
streams belong to a built-in one.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from msgspec.structs import replace

from smtpproxy.policy.model import BUILT_IN_BRAND
from smtpproxy.settings import BrandSettings, ControllerSettings, Settings, StreamSettings
from smtpproxy.settings.places import domain as read_domain
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Fault, tables

Document = Mapping[str, Any]


def brand_checks(document: Document) -> Iterator[Fault]:
    """Yield the faults of brands, and of streams with no brand or a wrong one."""
    names = [str(b["name"]) for _, b in tables(document, "brand") if "name" in b]
    names = [name for name in names if name != BUILT_IN_BRAND]
    for index, brand in tables(document, "brand"):
        if brand.get("name") == BUILT_IN_BRAND:
            yield Fault(
                ("brand", index, "name"),
                f'"{BUILT_IN_BRAND}" is built in, for files without a [[brand]]: choose another'
                " name",
            )
        for key, theirs in (("legal_name", "name"), ("address", "address")):
            if key not in brand and "controller" not in document:
                yield Fault(
                    ("brand", index, key),
                    f"missing, and there is no [controller] whose {theirs} it could be: say who"
                    " answers for the mail",
                )
    for index, stream in tables(document, "stream"):
        name = stream.get("brand")
        if name is None and len(names) > 1:
            choice = " or ".join(f"brand = {shown(each)}" for each in names)
            yield Fault(
                ("stream", index, "brand"),
                f"missing; there are several brands, so say whose it is: {choice}",
            )
        elif isinstance(name, str) and name not in names:
            near = get_close_matches(name, names, n=1)
            right = f"; did you mean {shown(near[0])}?" if near else f": {_add(name)}"
            yield Fault(("stream", index, "brand"), f"no brand {shown(name)} is defined{right}")
    for index, token in tables(document, "token"):
        asked = token.get("brands")
        for at, name in enumerate(asked if isinstance(asked, list) else ()):
            if isinstance(name, str) and name not in names:
                place = ("token", index, "brands", at)
                yield Fault(place, f"no brand {shown(name)} is defined: {_add(name)}")
    yield from _domains(document)


def _add(name: str) -> str:
    return f"add a [[brand]] with name = {shown(name)}"


def _domains(document: Document) -> Iterator[Fault]:
    """Yield From domains with a second brand: each belongs to one, by which people recognise it."""
    owners: dict[str, str] = {}
    limited = set()
    brands = list(tables(document, "brand"))
    for index, brand in brands:
        own = str(brand.get("name"))
        for at, domain in _read_domains(brand):
            limited.add(own)
            other = owners.setdefault(domain, own)
            if other != own:
                place = ("brand", index, "from_domains", at)
                yield Fault(
                    place, f'"{domain}" belongs to brand "{other}": a domain belongs to one brand'
                )
    for index, stream in tables(document, "stream"):
        own = str(stream.get("brand") or (brands[0][1].get("name") if len(brands) == 1 else ""))
        for at, domain in _read_domains(stream):
            place = ("stream", index, "from_domains", at)
            other = owners.get(domain, own)
            if other != own:
                yield Fault(
                    place, f'"{domain}" belongs to brand "{other}", and the stream to "{own}"'
                )
            elif own in limited and domain not in owners:
                yield Fault(
                    place,
                    f'"{domain}" is not a domain of brand "{own}": add it to the brand\'s'
                    " from_domains, or leave it out",
                )


def _read_domains(table: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    named = table.get("from_domains")
    for at, each in enumerate(named if isinstance(named, list) else ()):
        try:
            yield at, read_domain(each)
        except ValueError:
            continue  # a separate fault


def completed(found: Settings) -> dict[str, BrandSettings]:
    """Return the brands by name, each with a title and a controller; at least one."""
    controller = found.controller or ControllerSettings("", "", "", (), (), "")
    built_in = BrandSettings(BUILT_IN_BRAND, legal_name=controller.name or found.server.hostname)
    brands = {}
    for each in found.declared_brands or (built_in,):
        legal_name = each.legal_name or controller.name
        brands[each.name] = replace(
            each,
            legal_name=legal_name,
            title=each.title or legal_name,
            address=each.address or controller.address,
        )
    return brands


def without_controller(settings: Settings) -> Iterator[str]:
    """Yield warnings about what has to name who processes the data, and cannot."""
    if settings.controller is not None:
        return
    yield (
        "controller: not set, so `contact export ADDRESS --evidence` writes no document: it"
        " must name who processes the data (RGPD 15(1)); add [controller] if you answer"
        " requests with it"
    )
    if settings.confirmation is not None and not settings.declared_brands:
        host = settings.server.hostname
        yield (
            f"confirmation: people are asked to agree to mail of {host}, which names nobody: that"
            " is not informed consent (RGPD 4(11), 13(1)(a)); add [controller], or [[brand]] with"
            " its legal_name"
        )


def brand_of(stream: StreamSettings | None, brands: Mapping[str, BrandSettings]) -> str:
    """Return the brand of a stream; None is undeclared mail."""
    if stream is not None and stream.brand:
        return stream.brand
    return next(iter(brands)) if len(brands) == 1 else BUILT_IN_BRAND


def from_domains(
    own: frozenset[str], name: str, brands: Mapping[str, BrandSettings]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the From domains of a brand's stream and, if it allows any, those of other brands."""
    own = own or (brands[name].from_domains if name in brands else own)
    others = [brand.from_domains for brand in brands.values() if brand.name != name]
    return own, frozenset() if own else frozenset().union(*others)
