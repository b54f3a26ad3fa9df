"""`smtpproxy consent`: acts of agreement and their withdrawal, one at a time."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import click
from msgspec.structs import replace

from smtpproxy.cli import fail
from smtpproxy.cli.consent_export import export
from smtpproxy.cli.consent_mail import link, start
from smtpproxy.cli.options import (
    TIME_HELP,
    canonical_address,
    choice,
    config_option,
    file_type,
    flag,
    ip_address,
    last_moment,
    moment,
    option,
    options,
    plain_text,
    sha256_text,
)
from smtpproxy.cli.printer import Result, shows_result
from smtpproxy.cli.stores import (
    check_brand,
    check_purpose,
    known_scope,
    now,
    using_store,
    warn,
    warn_of_the_future,
)
from smtpproxy.policy.decide import decisive
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
    collections,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.bases import confirmed_request
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
        raise click.BadParameter(f"{value!r} is in the future: consent cannot be dated ahead")
    return at


@click.group("consent")
def consent() -> None:
    """Record consent and its withdrawal. Acts are a history: none is ever replaced."""


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What was agreed to, how, and what proves it."""

    purpose: str = option(
        "What the person agreed to, such as newsletter.", plain_text, required=True
    )
    method: str | None = option(
        "How: unticked_box, double_opt_in, signed_form … Required unless"
        " --pending or --confirm says that it is a double opt-in.",
        plain_text,
    )
    pending: bool = flag("The person was asked to confirm, and has not yet: it allows no mail.")
    confirm: bool = flag(
        "The person confirmed what is on record as --pending: a second act, which counts."
    )
    wording: str | None = option(
        "Which text the person agreed to. Without it nothing is proven.", plain_text
    )
    version: str | None = option("Which version of the wording.", plain_text)
    form: str | None = option("Where it was given: a page, a till, a stand.", plain_text)
    document: Path | None = option(
        "The proof, such as a scan: its SHA-256 is kept, not the document.",
        file_type(), metavar="FILE",
    )  # fmt: skip
    document_hash: str | None = option("That SHA-256 itself, in hex.", sha256_text)
    given_at: datetime | None = option(f"{TIME_HELP} (default: now).", past_moment, metavar="TIME")
    ip: str | None = option("Where the person agreed from.", ip_address)
    conditional: str | None = option(
        "Whether it was a condition of the service (default: not on record).",
        choice(["yes", "no"]),
    )
    channels: tuple[str, ...] = option(
        "A channel to reach the person by; repeat for more.",
        plain_text, name="--channel", multiple=True, default=["email"],
    )  # fmt: skip
    brand: str | None = option(
        "Whom the person agreed with; required where there are several.",
        plain_text, metavar="NAME",
    )  # fmt: skip
    source: str | None = option(
        "How the address was obtained, when that is not known yet.", choice(Source)
    )

    def act(self, method: str) -> ConsentAct:
        """Return the act that these options describe."""
        if self.document is not None and self.document_hash is not None:
            raise click.UsageError("--document or --document-hash, not both")
        proof = _sha256_of(self.document) if self.document else self.document_hash
        return ConsentAct(
            self.purpose,
            self.given_at or now(),
            method=method,
            conditional=None if self.conditional is None else self.conditional == "yes",
            channels=frozenset(self.channels),
            evidence=Evidence(self.wording, self.ip, self.version, self.form, proof),
            pending=self.pending,
        )


@consent.command("record")
@click.argument("address", type=canonical_address)
@options(RecordOptions)
@config_option
@shows_result
def record(settings: Settings, address: str, options: RecordOptions) -> Result:
    """Record that a person agreed to one purpose; makes the contact when there is none.

    A double opt-in is two acts: the request, recorded with --pending, and its confirmation,
    recorded with --confirm. What proves it may be in either.
    """
    brand = _brand(settings, options.brand)
    act = replace(options.act(_method(settings, options)), brand=brand)

    async def add(store: Store) -> tuple[bool, RecipientFacts]:
        before = await store.contact(address)
        if options.confirm and not _can_be_confirmed(address, before, act):
            return False, (await store.facts(Lookups((address,))))[address]
        recorded = await store.record_act(address, act)
        if options.source and not _sources(before, settings, brand):
            named = Contact(address, source=Source(options.source), brand=brand)
            await store.put_contacts([ContactUpdate(named, given=frozenset({"source"}))])
        return recorded, (await store.facts(Lookups((address,))))[address]

    check_purpose(settings, options.purpose)
    recorded, known = using_store(settings, add)
    if known.contact is not None and not _sources(known.contact, settings, brand):
        warn("it is not known how the address was obtained, so it is not mailed: give --source")
    if options.pending:
        warn("nothing is mailed on it until the person confirms: consent record … --confirm")
        return _result(address, act, recorded)
    for name, where in _unproven(settings, act, known.contact):
        warn(f"without {name} the consent proves nothing, so it allows nothing{where}")
    for stream, verdict in _still_suppressed(settings, address, act, known):
        warn(
            f"{address} will still not be mailed on the stream {stream}: {verdict.reason} "
            f"({verdict.detail}); see smtpproxy suppress show {address}"
        )
    for stream, verdict in _source_refused(settings, address, act, known):
        warn(
            f"{address} will still not be mailed on the stream {stream}: {verdict.reason}, since "
            f"the address is on record as {_sources(known.contact, settings, brand)}. Consent"
            " does not change where it came from; "
            "if the person gave it themselves, correct it: smtpproxy contact rectify "
            f"{address} --source direct --reason TEXT"
        )
    return _result(address, act, recorded)


@dataclass(frozen=True, slots=True)
class WithdrawOptions:
    """What is withdrawn."""

    purpose: str = option("What the person no longer agrees to.", plain_text, required=True)
    brand: str | None = option(
        "From whom it is withdrawn (default: from every brand).", plain_text, metavar="NAME"
    )
    withdrawn_at: datetime | None = option(f"{TIME_HELP} (default: now).", last_moment)


@consent.command("withdraw")
@click.argument("address", type=canonical_address)
@options(WithdrawOptions)
@config_option
@shows_result
def withdraw(settings: Settings, address: str, options: WithdrawOptions) -> Result:
    """Record that a person withdraws the agreement to one purpose.

    It holds against every other basis too, and also when no agreement was on record.
    """
    at = options.withdrawn_at
    warn_of_the_future("--withdrawn-at", at, "it counts from now on all the same")
    if options.brand is not None:
        check_brand(settings, options.brand)
    act = ConsentAct(options.purpose, at or now(), withdrawal=True, brand=options.brand)
    scope = known_scope(settings, f"purpose:{options.purpose}")

    async def add(store: Store) -> bool:
        if scope == "marketing":
            order = SuppressionEntry(address, scope, Origin.UNSUBSCRIBE, act.at)
            await store.add_suppressions([order])
        return await store.record_act(address, act)

    return _result(address, act, using_store(settings, add))


def _brand(settings: Settings, asked: str | None) -> str | None:
    """Return whom the person agreed with; None is the brand that has no name."""
    known = sorted(settings.brand_names)
    if asked is not None:
        check_brand(settings, asked)
    elif len(known) > 1:
        fail(f"--brand: say whom the person agreed with, one of {', '.join(known)}", 2)
    return asked or next(iter(known), None)


def _sources(contact: Contact | None, settings: Settings, brand: str | None) -> str:
    """Return how a brand obtained the address, in words; empty: it is not on record."""
    own = {brand} if len(settings.brand_names) > 1 else {brand, None}
    ways = () if contact is None else collections(contact)
    known = [str(way.source) for way in ways if way.brand in own and way.source]
    return " and ".join(dict.fromkeys(known))


def _method(settings: Settings, options: RecordOptions) -> str:
    method, double = options.method, options.pending or options.confirm
    if options.pending and options.confirm:
        raise click.UsageError("--pending or --confirm, not both: they are two acts")
    if method is None and double:
        return _CONFIRMED
    if method is None:
        raise click.UsageError("Missing option '--method'.")
    books = settings.rulebooks.values()
    methods = {name for book in books for name in book.valid_methods | book.preticked_methods}
    if method not in methods:
        fail(f"--method: {method!r} is not one of {', '.join(sorted(methods))}", 2)
    if double and method != _CONFIRMED:
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
            fail(f"{address}: {act.purpose} was withdrawn after it was requested; ask again")
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
    for name, wanted in _EVIDENCE.items():
        where = [stream for stream, names in asking.items() if name in names]
        if where and not any(getattr(one, name) for one in stated):
            yield wanted, "" if len(where) == len(asking) else f" on {', '.join(where)}"


def _still_suppressed(
    settings: Settings, address: str, act: ConsentAct, known: RecipientFacts
) -> Iterator[tuple[str, Verdict]]:
    """Yield the streams of the purpose on which a suppression outweighs the consent."""
    yield from _refused(settings, address, act, known, suppressed)


def _source_refused(
    settings: Settings, address: str, act: ConsentAct, known: RecipientFacts
) -> Iterator[tuple[str, Verdict]]:
    """Yield the marketing streams of the purpose on which the source on record refuses."""
    if not _sources(known.contact, settings, act.brand):
        return
    for stream, verdict in _refused(settings, address, act, known, refused_source):
        if settings.streams[stream].stream_class is StreamClass.MARKETING:
            yield stream, verdict


def _refused(
    settings: Settings,
    address: str,
    act: ConsentAct,
    known: RecipientFacts,
    rule: Callable[[RecipientCase], Verdict | None],
) -> Iterator[tuple[str, Verdict]]:
    for stream in settings.streams.values():
        if stream.purpose == act.purpose and act.brand in (None, stream.brand):
            rulebook = settings.rulebooks[stream.rulebook]
            case, _ = decisive(RecipientCase(address, stream, known, rulebook, now()))
            verdict = rule(case)
            if verdict is not None:
                yield stream.name, verdict


def _result(address: str, act: ConsentAct, recorded: bool) -> Result:
    kind = "withdrawal of" if act.withdrawal else "request for" if act.pending else "consent to"
    done = "recorded" if recorded else "was on record already"
    data = {"address": address, "recorded": recorded, "act": act}
    return Result(data, [f"{address}: {kind} {act.purpose} {done}"])


consent.add_command(start)
consent.add_command(link)
consent.add_command(export)
