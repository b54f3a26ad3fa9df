"""`smtpproxy contact`: what is known about people, imported, shown, exported and erased."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli import fail, failing
from smtpproxy.cli.contact_map import map_contacts
from smtpproxy.cli.contact_rights import erase, in_words, object_, rectify
from smtpproxy.cli.import_file import run_import
from smtpproxy.cli.import_record import access_of, rejecting
from smtpproxy.cli.imports import Handling, ImportOptions, Put, prepare
from smtpproxy.cli.journals import ANCHORS, read_kept
from smtpproxy.cli.options import (
    TIME_HELP,
    ExistingFile,
    FileOrStdin,
    Moment,
    PageLanguage,
    RecordedAddress,
    Text,
    command,
    flag,
    option,
)
from smtpproxy.cli.outputs import written_to
from smtpproxy.cli.printer import Fields, Part, Result, Styled, json_bytes, verify_progress
from smtpproxy.cli.stores import (
    check_brand,
    constants_of,
    no_contact,
    read_store,
    using_store,
    warn,
)
from smtpproxy.clock import now
from smtpproxy.locale import PAGE_LANGS, REFERENCE, Lang
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Link,
    Purchase,
    collections,
)
from smtpproxy.scrub.outlook import Outlook
from smtpproxy.settings import Settings
from smtpproxy.store.exchange import contact_csv, contact_ndjson
from smtpproxy.store.exchange.compare import ContactComparison
from smtpproxy.store.exchange.consent_columns import purpose_in_words
from smtpproxy.store.exchange.contact_ndjson import written_contact
from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import Contents, read_lines
from smtpproxy.store.exchange.mapping import MappingFault, read_mapping
from smtpproxy.store.exchange.plausible import ContactCheck
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.exchange.tables import read_table
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import Batch, Rectification
from smtpproxy.store.records import BatchResult, ContactUpdate
from smtpproxy.store.sql.store import Store

_HTML = (".html", ".htm")


@click.group("contact")
def contact() -> None:
    """Map and import files of contacts; show, correct, export and erase contacts."""


for subcommand in (map_contacts, rectify, object_, erase):
    contact.add_command(subcommand)


class ContactImport(ImportOptions, frozen=True):
    """How contacts are imported."""

    as_of: Moment | None = option(
        "The time that the file describes (default: its last modification). A profile no newer"
        f" than the stored one changes nothing. {TIME_HELP}."
    )
    purpose: Text | None = option(
        "The purpose of the consents in a provider's export; without it they are left out."
    )
    brand: Text | None = option(
        "The brand that owns the file: everything in it that names no brand belongs to this one.",
        metavar="NAME",
    )


@command("import", contact)
def import_contacts(settings: Settings, file: FileOrStdin, options: ContactImport) -> Result:
    """Import contacts from NDJSON, CSV or a provider's export.

    Exports of Mailchimp, Mailjet, Brevo and listmonk are recognised by their headers.
    Profiles are updated, purchases and consent acts added; nothing is removed and no
    suppression lifted. Lines that cannot be read are set aside, and the exit code is 1.
    """
    access = access_of(settings, options.job)
    settings = access.settings
    as_of, purpose, own = options.as_of, options.purpose or "", options.own_format is not None
    others = {"as-of": written_time(as_of) if as_of else "", "purpose": purpose}
    if options.brand is not None:
        check_brand(settings, options.brand)
        others["brand"] = options.brand
    task = prepare(access, file, "contacts", options, others, as_of)
    with failing(MappingFault, code=2):
        columns = read_mapping(options.mapping) if options.mapping else None
    constants = constants_of(settings, "contacts", options.constants)
    wanted = Wanted(task.hint, options.layout, own=own, purpose=purpose, constants=constants)
    limit = None if access.everything else rejecting(access.check_contact)
    check = ContactCheck(settings, now(), options.brand, limit)

    def contents(opened: BinaryIO, found: Format) -> Contents[ContactUpdate]:
        age = task.as_of
        if found == "csv":
            lines = read_table(opened, columns)
            return check.checked(contact_csv.read_csv(lines, columns, age, wanted))
        if constants:
            fail("--set works with tables only; in our own NDJSON each line has every field", 2)
        if purpose or wanted.layout:
            fail("our own NDJSON takes no provider's --format; each consent has a purpose", 2)
        return check.checked(contact_ndjson.read_ndjson(read_lines(opened, "utf-8"), age))

    def put(store: Store) -> Put[ContactUpdate]:
        async def into(updates: Sequence[ContactUpdate], batch: Batch) -> BatchResult:
            if orders := check.orders(updates):
                await store.add_suppressions(orders)
            return await store.put_contacts(updates, batch)

        return into

    async def look(
        outlook: Outlook, store: Store, new: Sequence[ContactUpdate], after: Mapping[str, Contact]
    ) -> None:
        await outlook.imported(store, new, after, check.orders(new))

    judged = [(stream, settings.rulebooks[stream.rulebook]) for stream in settings.streams.values()]
    return run_import(
        task,
        Handling(
            contents,
            lambda store, report: ContactComparison(store, judged, now(), report),
            put,
            check.notices,
            look,
        ),
    )


@command("show", contact)
def show(settings: Settings, address: RecordedAddress) -> Result:
    """Show what is stored about an address; exits with 1 when there is no contact."""

    async def read(store: Store) -> tuple[Contact, int, Sequence[Rectification]]:
        contact, suppressions = await store.contact(address), await store.suppressions(address)
        if contact is None:
            hint = f"; suppressed: see smtpproxy suppress show {address}" if suppressions else ""
            fail(await no_contact(store, address) + hint)
        return contact, len(suppressions), await store.rectifications(address)

    contact, suppressions, rectified = read_store(settings, read)
    hint = f"suppressed: see smtpproxy suppress show {address}" if suppressions else ""
    data = json.loads(written_contact(contact))
    if rectified:
        data["rectifications"] = rectified

    def text() -> Iterator[Part]:
        yield Fields(_rows(contact, rectified))
        if hint:
            yield Styled(hint, "yellow")

    return Result(data, text(), one_line=True)


def _rows(contact: Contact, rectified: Sequence[Rectification]) -> Iterator[tuple[str, str | None]]:
    yield "address", contact.address
    newest, *others = collections(contact)
    yield from _collected(newest)
    yield "tags", ", ".join(sorted(contact.tags)) or None
    if contact.language:
        yield "language", contact.language
    if contact.first_contacted_at:
        yield "first contacted at", _time(contact.first_contacted_at)
    if contact.profiling_objected_at:
        yield "objected to profiling", _time(contact.profiling_objected_at)
    for purchase in contact.purchases:
        kind = "" if purchase.kind is Dealing.SALE else f" ({purchase.kind})"
        seller = _counterparty(purchase)
        yield "purchase", f"{written_time(purchase.at)} {purchase.product}{kind}{seller}"
    for act in contact.acts:
        yield "consent", _act(act)
    for wish in contact.preferences:
        brand = "" if wish.brand == BUILT_IN_BRAND else f" (brand {wish.brand})"
        yield "preference", f"{written_time(wish.at)} {wish.purpose} {wish.frequency}{brand}"
    for way in others:
        yield "also", "obtained in another way:"
        yield from _collected(way)
    for one in rectified:
        changes = "; ".join(in_words(change) for change in one.changes)
        yield "corrected", f"{written_time(one.at)} {changes} ({one.reason})"


def _collected(way: Collection) -> Iterator[tuple[str, str | None]]:
    if way.brand:
        yield "brand", way.brand
    yield "audience", way.audience
    yield "occupations", ", ".join(sorted(way.occupations)) or None
    yield "source", way.source or "not known"
    yield "collected at", _time(way.collected_at)
    yield "informed at", "was not told" if way.never_informed else _time(way.informed_at)
    yield "opt-out offered", _yes_or_no(way.optout_offered)
    yield "last activity at", _time(way.last_activity_at)
    if provenance := way.provenance:
        yield "supplier", provenance.supplier or "not named"
        yield "sender disclosed", _yes_or_no(provenance.sender_disclosed)
        for link in provenance.chain:
            yield "hand", _hand(link)


def _counterparty(item: ConsentAct | Purchase) -> str:
    brand = f" (brand {item.brand})" if item.brand else ""
    return brand + (f" (known by {item.came_by})" if item.came_by else "")


def _act(act: ConsentAct) -> str:
    done = "withdrawn" if act.withdrawal else "asked for, not confirmed" if act.pending else "given"
    by = f" by {act.method}" if act.method else ""
    words = [f"{written_time(act.at)} {purpose_in_words(act.purpose)} {done}{by}"]
    words += ["as a condition of the service"] if act.conditional else []
    if act.conditional is None and not act.withdrawal:
        words.append("whether as a condition of the service is not on record")
    words += [f"for {', '.join(sorted(act.channels))}"] if not act.withdrawal else []
    words += [f"wording “{act.evidence.wording}”"] if act.evidence.wording else []
    words += [f"version {act.evidence.version}"] if act.evidence.version else []
    words += [f"form “{act.evidence.form}”"] if act.evidence.form else []
    words += [f"from {act.evidence.ip}"] if act.evidence.ip else []
    words += [f"recorded by {act.evidence.recorded_by}"] if act.evidence.recorded_by else []
    proof = act.evidence.document_hash
    words += [f"document SHA-256 {proof}"] if proof else []
    return "; ".join(words) + _counterparty(act)


def _hand(link: Link) -> str:
    disclosed = {
        True: "disclosed this sender",
        False: "did not disclose this sender",
        None: "not known whether it disclosed this sender",
    }[link.sender_disclosed]
    date = f" on {link.at:%Y-%m-%d}" if link.at else ""
    return f"{link.supplier or 'not named'}: {disclosed}{date}"


def _yes_or_no(value: bool | None) -> str:
    return "not known" if value is None else "yes" if value else "no"


def _time(moment: datetime | None) -> str:
    return written_time(moment) if moment else "not known"


@command("export", contact)
def export(
    settings: Settings,
    address: RecordedAddress | None,
    output: BinaryIO,
    as_json: bool,
    evidence: bool = flag(
        "Everything about ADDRESS as a document: what is stored, what was sent, and the proof."
    ),
    lang: PageLanguage | None = option(
        "The language of the document (default: the person's, or server.language)."
    ),
    kept: ExistingFile | None = ANCHORS,
) -> int:
    """Export every contact, or that of ADDRESS, as NDJSON, in the format that `import` reads.

    With --evidence, write the answer to a request for access by ADDRESS: HTML if the file is
    named so, otherwise Markdown, and the same as JSON in a file beside it. Exits with 1 when the
    audit log was altered.
    """
    if evidence:
        if address is None:
            raise click.UsageError("--evidence is about one ADDRESS")
        return _write_evidence(settings, address, output, lang, kept, as_json=as_json)
    if kept is not None:
        raise click.UsageError("--anchors needs --evidence")

    async def write(store: Store) -> None:
        if address is not None:
            contact = await store.contact(address)
            if contact is None:
                fail(await no_contact(store, address))
            output.write(written_contact(contact) + b"\n")
            return
        async with aclosing(store.export_contacts()) as contacts:
            async for contact in contacts:
                output.write(written_contact(contact) + b"\n")

    using_store(settings, write, read_only=True)
    return 0


def _language_of(person: Contact | None, settings: Settings) -> Lang:
    """Return the language of a document for a person: theirs, or English if there is none in it."""
    read = (person and person.language) or settings.server.language
    primary = read.partition("-")[0].lower()
    return primary if primary in PAGE_LANGS else REFERENCE


def _write_evidence(
    settings: Settings,
    address: str,
    output: BinaryIO,
    lang: Lang | None,
    kept: Path | None,
    *,
    as_json: bool,
) -> int:
    """Write the document to `output`, and the same as JSON beside a file; return the exit code.

    HTML if the file is named so, otherwise Markdown; JSON alone if asked for, or if the file is
    named so. 1: something is wrong with the audit log, and the document says so.
    """
    from smtpproxy.evidence.document import document
    from smtpproxy.evidence.gather import evidence, evidence_object
    from smtpproxy.evidence.writing import html, markdown
    from smtpproxy.sinks.audit import verify as journal_verify

    path = None if output is sys.stdout.buffer else Path(output.name)
    suffix = path.suffix.lower() if path else ""
    as_json = as_json or suffix == ".json"
    controller = settings.controller
    if controller is None and not as_json:
        fail(
            "controller: not set, but the document has to say who processes the data and why"
            " (RGPD 15(1)); add [controller] to the configuration (docs/settings.md),"
            " or use --json",
            2,
        )
    beside = None if as_json or path is None else path.with_suffix(".json")
    if beside is not None and not _may_be_replaced(beside):
        fail(
            f"{beside}: the document as JSON goes there, but the file there is something else; move"
            " it away, or name another --output"
        )
    folder = settings.server.state_dir / "audit"
    with verify_progress(journal_verify.size(folder)) as looked:
        found = evidence(settings, address, at=now(), kept=read_kept(kept), looked=looked)
    if found.contact is None:
        for new in read_store(settings, lambda store: store.moved_to(address)):
            warn(f"{address} was corrected to {new}: the document about {new} has what is stored")
    data = json_bytes(evidence_object(found)) + b"\n"
    if as_json or controller is None:
        output.write(data)
    else:
        lang = lang or _language_of(found.contact, settings)
        blocks = document(found, controller, lang)
        text = html(blocks, lang) if suffix in _HTML else markdown(blocks, lang)
        output.write(text.encode("utf-8", "backslashreplace"))
        if beside is not None:
            with written_to(beside) as file:
                file.write(data)
            click.echo(f"written: {path} and {beside}", err=True)
    if found.chain.wrong:
        click.echo("The audit log was altered: see smtpproxy audit verify", err=True)
        return 1
    return 0


def _may_be_replaced(path: Path) -> bool:
    """Whether there is no such file, an empty one, or one that holds evidence."""
    try:
        data = path.read_bytes()
        return not data or json.loads(data).keys() >= {"address", "audit_log"}
    except FileNotFoundError:
        return True
    except (ValueError, AttributeError):
        return False
