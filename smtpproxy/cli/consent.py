"""`smtpproxy consent`: acts of consent and their withdrawal, one at a time."""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import uuid4

import click
from msgspec.structs import replace

from smtpproxy import recorded_consent
from smtpproxy.cli import fail, failing
from smtpproxy.cli.consent_mail import IpAddress, link, start
from smtpproxy.cli.options import (
    TIME_HELP,
    CanonicalAddress,
    ExistingFile,
    LastMoment,
    Options,
    RecordedAddress,
    Text,
    Value,
    command,
    flag,
    moment,
    option,
    several,
)
from smtpproxy.cli.outlook import with_effect
from smtpproxy.cli.printer import Result, json_bytes
from smtpproxy.cli.stores import (
    check_brand,
    check_purpose,
    known_scope,
    using_store,
    warn,
    warn_of_the_future,
    with_new_address,
)
from smtpproxy.clock import now
from smtpproxy.evidence.receipt import NoReceipt, receipt
from smtpproxy.policy.model import (
    EVERY_PURPOSE,
    ConsentAct,
    Evidence,
    Lookups,
    RecipientFacts,
    Source,
)
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.recorded_consent import brand_of, check_method
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.consent_columns import purpose_in_words
from smtpproxy.store.exchange.plausible import SKEW, by_now
from smtpproxy.store.exchange.times import NO_EARLIER
from smtpproxy.store.sql.store import Store

_BATCH = 500  # receipts
_EVIDENCE = {
    "wording": "a --wording",
    "version": "a --version",
    "form": "a --form",
    "ip": "an --ip",
    "document_hash": "a --document",
}


def _past_moment(value: str) -> datetime:
    at = moment(value)
    if at > now() + SKEW:
        raise ValueError(f"{value!r} is in the future: consent cannot be post-dated")
    if at < NO_EARLIER:
        raise ValueError(f"{value!r} is before 1990, which stands for no date")
    return at


def _sha256(value: str) -> str:
    if re.fullmatch(r"[0-9A-Fa-f]{64}", value.strip()) is None:
        raise ValueError(f"{value!r} is not a SHA-256, which has 64 hexadecimal digits")
    return value.strip().lower()


@click.group("consent")
def consent() -> None:
    """Record consent and its withdrawal. Acts form a history: none is ever replaced."""


class RecordOptions(Options, frozen=True):
    """What was agreed to, how, and what proves it."""

    purpose: Text = option("What the person agreed to, such as newsletter.", required=True)
    method: Text | None = option(
        "How they agreed: unticked_box, double_opt_in, signed_form … Required unless"
        " --pending or --confirm makes it a double opt-in."
    )
    pending: bool = flag("The person was asked to confirm but has not yet: this allows no mail.")
    confirm: bool = flag(
        "The person confirmed what is on record as --pending: this second act is what counts."
    )
    wording: Text | None = option(
        "The text that the person agreed to. Without it nothing is proven."
    )
    version: Text | None = option("The version of the wording.")
    form: Text | None = option("Where consent was given: a page, a till, a stand.")
    document: ExistingFile | None = option(
        "The proof, such as a scan: its SHA-256 is kept, not the document.", metavar="FILE"
    )
    document_hash: Annotated[str, Value("SHA256", _sha256)] | None = option(
        "The SHA-256 itself, in hex."
    )
    given_at: Annotated[datetime, Value("TIME", _past_moment)] | None = option(
        f"When the person agreed (default: now). {TIME_HELP}."
    )
    ip: IpAddress | None = option("The IP address that the person agreed from.")
    conditional: bool | None = option(
        "Whether consent was a condition of the service (default: not on record)."
    )
    channels: tuple[Text, ...] = several(
        "A channel to reach the person by.", name="--channel", default=["email"]
    )
    brand: Text | None = option(
        "The brand that the person agreed with; required if there are several.", metavar="NAME"
    )
    source: Source | None = option("How the address was obtained, if that is not known yet.")

    def act(self, method: str) -> ConsentAct:
        """Return the act that these options describe."""
        if self.document is not None and self.document_hash is not None:
            raise click.UsageError("--document or --document-hash, not both")
        proof = _sha256_of(self.document) if self.document else self.document_hash
        return ConsentAct(
            self.purpose,
            self.given_at or now(),
            method=method,
            conditional=self.conditional,
            channels=frozenset(self.channels),
            evidence=Evidence(self.wording, self.ip, self.version, self.form, proof),
            pending=self.pending,
        )


@command("record", consent)
def record(settings: Settings, address: CanonicalAddress, options: RecordOptions) -> Result:
    """Record that a person agreed to one purpose; creates the contact if there is none.

    A double opt-in is two acts: the request, recorded with --pending, and its confirmation,
    recorded with --confirm. Either may carry the proof.
    """
    with failing(ValueError, "--brand: ", code=2):
        brand = brand_of(settings, options.brand)
    act = replace(options.act(_method(settings, options)), brand=brand)
    check_purpose(settings, options.purpose)

    async def add(store: Store) -> recorded_consent.Recorded:
        return await recorded_consent.record(
            settings, store, address, act, confirm=options.confirm, source=options.source
        )

    try:
        done = using_store(settings, add)
    except recorded_consent.NotConfirmable as error:
        fail(f"{address}: {error}" + ("" if "ask again" in str(error) else _HOW_TO_CONFIRM))
    _warn_if_not_mailable(settings, address, act, done.known)
    return _result(settings, address, act, done.new)


_HOW_TO_CONFIRM = "; record it with --pending first, or leave --confirm out"


def _warn_if_not_mailable(
    settings: Settings, address: str, act: ConsentAct, known: RecipientFacts
) -> None:
    """Say why the person may still not be mailed."""
    sources = recorded_consent.sources(known.contact, settings, act.brand)
    if known.contact is not None and not sources:
        warn("it is not known how the address was obtained, so it is not mailed: give --source")
    if act.pending:
        warn("it allows no mail until the person confirms: consent record … --confirm")
        return
    for name, streams in recorded_consent.unproven(settings, act, known.contact):
        where = f" on {', '.join(streams)}" if streams else ""
        warn(f"without {_EVIDENCE[name]} the consent proves nothing, so it allows nothing{where}")
    for stream, verdict in recorded_consent.refused_still(settings, address, act, known, now()):
        text = f"{address} will still not be mailed on the stream {stream}: {verdict.reason}"
        if verdict.rule == "suppression":
            text += f" ({verdict.detail}); see smtpproxy suppress show {address}"
        elif verdict.rule == "source":
            text += (
                f", since the source of the address on record is {sources}. Consent does not change"
                " where an address came from; if the person gave it themselves, correct the record:"
                f" smtpproxy contact rectify {address} --source direct --reason TEXT"
            )
        warn(text)


@command("withdraw", consent)
def withdraw(
    settings: Settings,
    address: RecordedAddress,
    purpose: Text = option(
        'What the person no longer agrees to ("*": to anything).', required=True
    ),
    brand: Text | None = option(
        "The brand that it is withdrawn from (default: every brand).", metavar="NAME"
    ),
    withdrawn_at: LastMoment | None = option(
        f"When the person withdrew it (default: now). {TIME_HELP}."
    ),
) -> Result:
    """Record that a person withdraws consent to one purpose, or to every one.

    The withdrawal overrides every other basis too, even when no consent was on record.
    """
    at = withdrawn_at
    warn_of_the_future("--withdrawn-at", at, "it counts from now on anyway")
    if brand is not None:
        check_brand(settings, brand)
    at = by_now(at or now(), now())
    act = ConsentAct(purpose, at, withdrawal=True, brand=brand)
    scope = f"purpose:{purpose}"
    if purpose != EVERY_PURPOSE:
        scope = known_scope(settings, scope)

    done = using_store(
        settings, lambda store: recorded_consent.withdraw(store, address, act, scope)
    )
    return _result(settings, address, act, done)


def _method(settings: Settings, options: RecordOptions) -> str:
    method, double = options.method, options.pending or options.confirm
    if options.pending and options.confirm:
        raise click.UsageError("--pending or --confirm, not both: they are two acts")
    if method is None and double:
        return DOUBLE_OPT_IN
    if method is None:
        raise click.UsageError("Missing option '--method'.")
    with failing(ValueError, "--method: ", code=2):
        check_method(settings, method, double=double)
    return method


def _sha256_of(document: Path) -> str:
    with document.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _result(settings: Settings, address: str, act: ConsentAct, recorded: bool) -> Result:
    kind = "withdrawal of" if act.withdrawal else "request for" if act.pending else "consent to"
    done = "recorded" if recorded else "was already on record"
    data = {"address": address, "recorded": recorded, "act": act}
    result = Result(data, [f"{address}: {kind} {purpose_in_words(act.purpose)} {done}"])
    return with_effect(settings, address, result)


@command("export")
def export(settings: Settings, address: RecordedAddress | None, output: BinaryIO) -> int:
    """Write the consent receipt of ADDRESS as JSON-LD, or everybody's, one per line.

    A receipt says who agreed to what with whom, when, how and to which text, and what was
    withdrawn, in the terms of W3C's Data Privacy Vocabulary, following ISO/IEC TS 27560.
    """

    def written(facts: RecipientFacts, indent: int | None) -> bytes | None:
        with failing(NoReceipt, code=2):
            made = receipt(settings, facts, identifier=str(uuid4()), at=now())
        return None if made is None else json_bytes(made, indent=indent) + b"\n"

    async def write(store: Store) -> None:
        if address is not None:
            facts = await store.facts(Lookups((address,)))
            document = written(facts[address], 2) if address in facts else None
            if document is None:
                fault = f"{address}: no consent is on record"
                fail(await with_new_address(store, address, fault))
            output.write(document)
            return
        async for batch in _batches(store):
            facts = await store.facts(Lookups(tuple(batch)))
            for each in batch:
                line = written(facts[each], None)
                if line is not None:
                    output.write(line)

    using_store(settings, write, read_only=True)
    return 0


async def _batches(store: Store) -> AsyncIterator[Sequence[str]]:
    """Yield the addresses of everybody who has a consent act on record."""
    batch: list[str] = []
    async with aclosing(store.export_contacts()) as contacts:
        async for contact in contacts:
            if contact.acts:
                batch.append(contact.address)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


consent.add_command(start)
consent.add_command(link)
consent.add_command(export)
