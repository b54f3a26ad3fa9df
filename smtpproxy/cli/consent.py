"""`smtpproxy consent`: acts of agreement and their withdrawal, one at a time."""

import hashlib
import ipaddress
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import click

from smtpproxy.cli.common import config_option, fail, moment
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import (
    TIME_HELP,
    canonical_address,
    check_purpose,
    last_moment,
    now,
    plain_text,
    scope_of,
    using_store,
    warn,
    warn_of_the_future,
)
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Lookups,
    Origin,
    RecipientFacts,
    Source,
    StreamClass,
    Verdict,
)
from smtpproxy.policy.rules.bases import confirmed_request
from smtpproxy.policy.rules.case import RecipientCase
from smtpproxy.policy.rules.recipient import source as refused_source
from smtpproxy.policy.rules.recipient import suppressed
from smtpproxy.settings import Settings
from smtpproxy.store.protocols import ContactUpdate, Store, SuppressionEntry

_SKEW = timedelta(minutes=5)  # between two clocks
_CONFIRMED = "double_opt_in"
_EVIDENCE = {
    "wording": "a --wording",
    "version": "a --version",
    "form": "a --form",
    "ip": "an --ip",
    "document_hash": "a --document",
}


def past_moment(value: str) -> datetime:
    """Read an option's time, which has come. For `type=past_moment`."""
    at = moment(value)
    if at > now() + _SKEW:
        raise click.BadParameter(f"{value!r} is in the future: nobody has agreed to anything then")
    return at


def ip_address(value: str) -> str:
    """Read an option's IP address. For `type=ip_address`."""
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        right = "192.0.2.7 or 2001:db8::7"
        raise click.BadParameter(f"{value!r} is no IP address such as {right}") from None


def sha256_text(value: str) -> str:
    """Read an option's hash. For `type=sha256_text`."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", value.strip()) is None:
        raise click.BadParameter(f"{value!r} is no SHA-256: that has 64 hexadecimal digits")
    return value.strip().lower()


@click.group()
def command() -> None:
    """Record consent and its withdrawal. Acts are a history: none is ever replaced."""


@command.command("record")
@click.argument("address", type=canonical_address)
@click.option(
    "--purpose",
    type=plain_text,
    required=True,
    help="What the person agreed to, such as newsletter.",
)
@click.option(
    "--method",
    type=plain_text,
    help="How: unticked_box, double_opt_in, signed_form … Needed, but for a double opt-in that"
    " --pending or --confirm names.",
)
@click.option(
    "--pending",
    is_flag=True,
    help="The person was asked to confirm, and has not yet: nothing may be mailed on it.",
)
@click.option(
    "--confirm",
    is_flag=True,
    help="The person confirmed what is on record as --pending: a second act, which counts.",
)
@click.option(
    "--wording",
    type=plain_text,
    help="Which text the person agreed to. Without it nothing is proven.",
)
@click.option("--version", type=plain_text, help="Which version of the wording.")
@click.option("--form", type=plain_text, help="Where it was given: a page, a till, a stand.")
@click.option(
    "--document",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The proof, such as a scan: its SHA-256 is kept, not the document.",
)
@click.option("--document-hash", type=sha256_text, help="That SHA-256 itself, in hex.")
@click.option("--given-at", type=past_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@click.option("--ip", type=ip_address, help="Where the person agreed from.")
@click.option("--conditional", is_flag=True, help="It was a condition of the service.")
@click.option(
    "--channel",
    "channels",
    type=plain_text,
    multiple=True,
    default=["email"],
    show_default=True,
    help="By what the person may be reached; give any number.",
)
@click.option(
    "--source",
    type=click.Choice([str(source) for source in Source]),
    help="How the address was obtained, when that is not known yet.",
)
@config_option
@json_option
def record(
    settings: Settings,
    address: str,
    purpose: str,
    method: str | None,
    pending: bool,
    confirm: bool,
    wording: str | None,
    version: str | None,
    form: str | None,
    document: Path | None,
    document_hash: str | None,
    given_at: datetime | None,
    ip: str | None,
    conditional: bool,
    channels: tuple[str, ...],
    source: str | None,
    as_json: bool,
) -> None:
    """Record that a person agreed to one purpose; makes the contact when there is none.

    A double opt-in is two acts: the request, recorded with --pending, and its confirmation,
    recorded with --confirm. What proves it may stand in either.
    """
    method = _method(settings, method, pending, confirm)
    if document is not None and document_hash is not None:
        raise click.UsageError("--document or --document-hash, not both")
    act = ConsentAct(
        purpose,
        given_at or now(),
        method=method,
        conditional=conditional,
        channels=frozenset(channels),
        evidence=Evidence(
            wording, ip, version, form, _sha256_of(document) if document else document_hash
        ),
        pending=pending,
    )

    async def add(store: Store) -> tuple[bool, RecipientFacts]:
        before = await store.contact(address)
        if confirm and not _can_be_confirmed(address, before, act):
            return False, (await store.facts(Lookups((address,))))[address]
        recorded = await store.record_act(address, act)
        if source and (before is None or before.source is None):
            named = Contact(address, source=Source(source))
            await store.put_contacts([ContactUpdate(named, given=frozenset({"source"}))])
        return recorded, (await store.facts(Lookups((address,))))[address]

    check_purpose(settings, purpose)
    recorded, known = using_store(settings, add)
    if known.contact is not None and known.contact.source is None:
        warn("how the address was obtained is not known, so it is not mailed: say --source")
    if pending:
        warn("nothing is mailed on it until the person confirms: consent record … --confirm")
        _print(address, act, recorded, as_json)
        return
    for name, where in _unproven(settings, act, known.contact):
        warn(f"without {name} the consent proves nothing, so it allows nothing{where}")
    for stream, verdict in _still_suppressed(settings, address, purpose, known):
        warn(
            f"{address} will still not be mailed on the stream {stream}: {verdict.reason} "
            f"({verdict.detail}); see smtpproxy suppress show {address}"
        )
    for stream, verdict in _source_refused(settings, address, purpose, known):
        warn(
            f"{address} will still not be mailed on the stream {stream}: {verdict.reason}, since "
            f"the address is on record as {known.contact and known.contact.source}. Consent "
            "does not change where it is from; "
            "if the person gave it themselves, put that right: smtpproxy contact rectify "
            f"{address} --source direct --reason TEXT"
        )
    _print(address, act, recorded, as_json)


@command.command("withdraw")
@click.argument("address", type=canonical_address)
@click.option(
    "--purpose", type=plain_text, required=True, help="What the person does not agree to any more."
)
@click.option("--withdrawn-at", type=last_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@config_option
@json_option
def withdraw(
    settings: Settings, address: str, purpose: str, withdrawn_at: datetime | None, as_json: bool
) -> None:
    """Record that a person withdraws the agreement to one purpose.

    It holds against every other basis too, and also when no agreement was on record.
    """
    warn_of_the_future("--withdrawn-at", withdrawn_at, "it counts from now on all the same")
    act = ConsentAct(purpose, withdrawn_at or now(), withdrawal=True)
    scope = scope_of(settings, purpose)

    async def add(store: Store) -> bool:
        if scope == "marketing":
            order = SuppressionEntry(address, scope, Origin.UNSUBSCRIBE, act.at)
            await store.add_suppressions([order])
        return await store.record_act(address, act)

    recorded = using_store(settings, add)
    _print(address, act, recorded, as_json)


def _method(settings: Settings, method: str | None, pending: bool, confirm: bool) -> str:
    if pending and confirm:
        raise click.UsageError("--pending or --confirm, not both: they are two acts")
    if method is None and (pending or confirm):
        return _CONFIRMED
    if method is None:
        raise click.UsageError("Missing option '--method'.")
    methods = _methods(settings)
    if method not in methods:
        fail(f"--method: {method!r} is none of {', '.join(sorted(methods))}", 2)
    if (pending or confirm) and method != _CONFIRMED:
        fail(f"--method: only a {_CONFIRMED} waits for a confirmation, {method} does not", 2)
    return method


def _sha256_of(document: Path) -> str:
    with document.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _can_be_confirmed(address: str, contact: Contact | None, act: ConsentAct) -> bool:
    """Whether a request waits. False: it is confirmed already. Ends the command without one."""
    request = None if contact is None else confirmed_request(contact.acts, act)
    if contact is None or request is None:
        fail(
            f"{address}: no request for {act.purpose} is on record to be confirmed; record it "
            "with --pending first, or leave --confirm out"
        )
    since = [
        one for one in contact.acts if one.purpose == act.purpose and request.at <= one.at <= act.at
    ]
    for one in since:
        if one.withdrawal:
            fail(
                f"{address}: {act.purpose} was withdrawn since it was asked for; let them ask anew"
            )
    return all(one.pending or one.method != _CONFIRMED for one in since)


def _unproven(
    settings: Settings, act: ConsentAct, contact: Contact | None
) -> Iterator[tuple[str, str]]:
    """Yield the options of evidence that rulebooks ask for and no act states, and where."""
    request = confirmed_request(contact.acts, act) if contact and act.method == _CONFIRMED else None
    stated = [act.evidence, *([request.evidence] if request else [])]
    asking = {
        stream.name: settings.rulebooks[stream.rulebook].required_evidence
        for stream in settings.streams.values()
        if stream.purpose == act.purpose and stream.stream_class is StreamClass.MARKETING
    } or {"": frozenset({"wording"})}
    for name, option in _EVIDENCE.items():
        where = [stream for stream, names in asking.items() if name in names]
        if where and not any(getattr(one, name) for one in stated):
            yield option, "" if len(where) == len(asking) else f" on {', '.join(where)}"


def _methods(settings: Settings) -> set[str]:
    """Return every method that a rulebook in use knows, valid or not."""
    rulebooks = settings.rulebooks.values()
    return {name for book in rulebooks for name in book.valid_methods | book.preticked_methods}


def _still_suppressed(
    settings: Settings, address: str, purpose: str, known: RecipientFacts
) -> Iterator[tuple[str, Verdict]]:
    """Yield the streams of the purpose on which a suppression outweighs the consent."""
    for stream in settings.streams.values():
        if stream.purpose == purpose:
            rulebook = settings.rulebooks[stream.rulebook]
            verdict = suppressed(RecipientCase(address, stream, known, rulebook, now()))
            if verdict is not None:
                yield stream.name, verdict


def _source_refused(
    settings: Settings, address: str, purpose: str, known: RecipientFacts
) -> Iterator[tuple[str, Verdict]]:
    """Yield the marketing streams of the purpose on which the source on record refuses."""
    if known.contact is None or known.contact.source is None:
        return
    for stream in settings.streams.values():
        if stream.purpose == purpose and stream.stream_class is StreamClass.MARKETING:
            rulebook = settings.rulebooks[stream.rulebook]
            verdict = refused_source(RecipientCase(address, stream, known, rulebook, now()))
            if verdict is not None:
                yield stream.name, verdict


def _print(address: str, act: ConsentAct, recorded: bool, as_json: bool) -> None:
    if as_json:
        print_json({"address": address, "recorded": recorded, "act": act})
        return
    kind = "withdrawal of" if act.withdrawal else "request for" if act.pending else "consent to"
    done = "recorded" if recorded else "was on record already"
    click.echo(f"{address}: {kind} {act.purpose} {done}")
