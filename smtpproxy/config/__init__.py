"""Reads a TOML file into `Settings`, or finds everything wrong with it."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from smtpproxy import toml
from smtpproxy.config.brands import brand_of, completed, from_domains
from smtpproxy.config.checks import cross_check
from smtpproxy.config.confirmations import permission_checks, with_confirmations
from smtpproxy.disk import exists
from smtpproxy.events import picked
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    DEFAULT_STREAM,
    Rulebook,
    Stream,
    StreamClass,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.policy.periods import shortest_seconds
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, RulebookError, builtin, parse_rulebook
from smtpproxy.settings import (
    BrandSettings,
    PolicySettings,
    Settings,
    StreamSettings,
)
from smtpproxy.settings.mail import DATABASE
from smtpproxy.toml_tables import Fault, Location, as_meant, read_table, report, table, tables

_REPLACED: Mapping[Location, str] = {
    ("listener", "trusted"): "is now three keys: proxy_trusted (hosts that may send a PROXY"
    " header), xclient_trusted (hosts that may send XCLIENT and XFORWARD) and login_trusted (hosts"
    " among these whose LOGIN counts as AUTH)",
}
"""Keys of other versions, and what to write instead."""

BULK_RECIPIENTS = 100
"""How many people may be sent one text if undeclared bulk has consequences and no number is set."""


class ConfigError(Exception):
    """The configuration cannot be used. `faults`: `FILE: key.path: what and what instead`."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def load(path: Path) -> Settings:
    """Read a configuration file. Raises ConfigError with every fault in it."""
    try:
        text = toml.read_text(path)
    except toml.TomlError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    return parse(text, str(path))


def parse(text: str, filename: str) -> Settings:
    """Read the text of a configuration. Raises ConfigError with every fault in it."""
    try:
        document = toml.loads(text)
    except toml.TomlError as error:
        raise ConfigError([f"{filename}: {error}"]) from error
    meant = as_meant(document, Settings)
    faults = list(cross_check(meant))
    books, book_faults = _rulebooks(meant)
    faults += [*book_faults, *permission_checks(meant, books)]
    found, own_faults = read_table(Settings, document, _REPLACED)
    faults += own_faults
    if found is None or faults:
        raise ConfigError(report(filename, meant, faults))
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
    return _completed(found, books, digest)


def _rulebooks(document: Mapping[str, Any]) -> tuple[dict[str, Rulebook], list[Fault]]:
    """Return the rulebooks by their references in the file, and the faults of the others.

    Faults within a rulebook file are given once, for the first place that names it.
    """
    books: dict[str, Rulebook] = {}
    faults: list[Fault] = []
    wrong: set[str] = set()  # files: hundreds of streams may name the same
    for location, reference in _rulebook_references(document):
        if reference in wrong:
            continue
        try:
            book = books.get(reference) or read_rulebook(reference)
        except RulebookError as error:
            faults += [Fault(location, text) for text in error.faults]
            if reference.startswith("/") and exists(Path(reference)):
                wrong.add(reference)
            continue
        twin = next((r for r, b in books.items() if b.name == book.name and r != reference), None)
        if twin is not None:
            faults.append(Fault(location, f'its name "{book.name}" is also that of {twin}'))
        books[reference] = book
    return books, faults


def _rulebook_references(document: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    reference = table(document, "policy").get("rulebook", PolicySettings().rulebook)
    if isinstance(reference, str):
        yield ("policy", "rulebook"), reference
    for index, stream in tables(document, "stream"):
        if isinstance(stream.get("rulebook"), str):
            yield ("stream", index, "rulebook"), stream["rulebook"]


def read_rulebook(reference: str) -> Rulebook:
    """Return the rulebook of a built-in name or of `/abs/path.toml`.

    Raises RulebookError with everything that is wrong, and what is expected.
    """
    if not reference.startswith("/"):
        if reference in BUILTIN_NAMES:
            return builtin(reference)
        raise RulebookError(
            [
                f"{toml.shown(reference)} is not a rulebook: {', '.join(BUILTIN_NAMES)}, or the"
                " absolute path of a rulebook file"
            ]
        )
    try:
        rulebook = parse_rulebook(toml.read_text(Path(reference)))
    except toml.TomlError as error:
        raise RulebookError([f"{reference}: {error}"]) from error
    except RulebookError as error:
        raise RulebookError([f"{reference}: {fault}" for fault in error.faults]) from error
    if rulebook.name in BUILTIN_NAMES:
        taken = f'name: "{rulebook.name}" is taken by a built-in rulebook: choose another'
        raise RulebookError([f"{reference}: {taken}"])
    return rulebook


def _completed(found: Settings, books: Mapping[str, Rulebook], digest: str) -> Settings:
    """Return the settings of the file with everything derived from several of them."""
    server, common = found.server, books[found.policy.rulebook]
    if server.workers == 0:
        server = replace(server, workers=len(os.sched_getaffinity(0)))
    policy = replace(found.policy, rulebook=common.name)
    brands = completed(found)
    default = replace(
        DEFAULT_STREAM,
        brand=brand_of(None, brands),
        many_brands=len(brands) > 1,
        all_brands=frozenset(brands) - {BUILT_IN_BRAND},
        rulebook=policy.rulebook,
        mode=policy.mode,
        marketing_cap=policy.frequency_cap,
        imprint=_common_imprint(policy, common),
        tracking_pixels=policy.tracking_pixels,
    )
    declared = [
        _stream(each, found, books[each.rulebook] if each.rulebook else common, brands)
        for each in found.declared_streams
    ]
    url = found.store.url or f"sqlite://{server.state_dir / DATABASE}"
    strictest = min(shortest_seconds(book.honour_within) for book in books.values())
    made = replace(
        found,
        server=server,
        store=replace(found.store, url=url, partners=found.partners),
        policy=policy,
        webhooks=tuple(
            replace(each, deadline=each.deadline or strictest) for each in found.webhooks
        ),
        streams={stream.name: stream for stream in (default, *declared)},
        brands=brands,
        rulebooks={book.name: book for book in books.values()},
        rulebook_files=tuple(Path(name) for name in books if name.startswith("/")),
        hash=digest,
    )
    return with_confirmations(made)


_SAME = (
    *("name", "purpose", "nature", "products", "topics", "paused", "alignment", "verp"),
    *("max_recipients", "first_contact_notice", "frequency_cap", "max_snapshot_age"),
    *("existing_unsubscribe", "unsubscribe_mailto", "undeclared_bulk", "bulk_window"),
)
"""What a stream has as it is configured."""


def _stream(
    stream: StreamSettings, found: Settings, rulebook: Rulebook, brands: Mapping[str, BrandSettings]
) -> Stream:
    policy = found.policy
    marketing = stream.stream_class != "transactional"
    adds = stream.unsubscribe == "add"
    imprint = stream.imprint or _common_imprint(policy, rulebook)
    brand = brand_of(stream, brands)
    own_domains, foreign_domains = from_domains(stream.from_domains, brand, brands)
    return Stream(
        **picked(stream, *_SAME),
        brand=brand,
        many_brands=len(brands) > 1,
        all_brands=frozenset(brands) - {BUILT_IN_BRAND},
        stream_class=StreamClass.MARKETING if marketing else StreamClass.TRANSACTIONAL,
        permission=stream.stream_class == "permission",
        from_domains=own_domains,
        foreign_domains=foreign_domains,
        one_click_required=stream.one_click == "required",
        rulebook=rulebook.name,
        mode=stream.mode or policy.mode,
        marketing_cap=policy.frequency_cap,
        refuse_at_data=stream.refuse_at == "data",
        trial=found.breaker.trial(stream.campaign_trial) if marketing else None,
        unsubscribe_scope=_unsubscribe_scope(stream, brand) if adds else None,
        list_id=(stream.list_id or f"{stream.name}.{found.server.hostname}") if adds else None,
        check_dkim=stream.check_dkim and marketing,
        body_optout=stream.body_optout and marketing,
        imprint=imprint if marketing else (),
        source_statement=stream.source_statement if marketing else (),
        honest_subject=stream.honest_subject and marketing,
        bulk_recipients=None if marketing else _bulk_recipients(stream),
        tracking_pixels=_tracking_pixels(stream, policy),
    )


def _tracking_pixels(stream: StreamSettings, policy: PolicySettings) -> TrackingPixels:
    """The stream's setting, or that of its class. By default a transactional stream only observes:
    its pixels may need no consent (CNIL 2026-042), which nothing in a message shows."""
    common = policy.tracking_pixels
    if stream.stream_class == "transactional" and common is not TrackingPixels.ALLOW:
        common = TrackingPixels.OBSERVE
    return stream.tracking_pixels or common


def _unsubscribe_scope(stream: StreamSettings, brand: str) -> str:
    """Return the scope that the links in its messages unsubscribe from.

    If no brand has a name, all marketing belongs to the only one.
    """
    match stream.unsubscribe_scope:
        case "purpose":
            return f"purpose:{stream.purpose}"
        case "brand" if brand != BUILT_IN_BRAND:
            return f"brand:{brand}"
    return "marketing"


def _bulk_recipients(stream: StreamSettings) -> int | None:
    if stream.bulk_recipients is None and stream.undeclared_bulk is not UndeclaredBulk.OBSERVE:
        return BULK_RECIPIENTS
    return stream.bulk_recipients


def _common_imprint(policy: PolicySettings, rulebook: Rulebook) -> tuple[str, ...]:
    """The imprint of a stream without its own."""
    return policy.imprint if rulebook.imprint_required else ()
