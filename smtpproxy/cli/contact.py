"""`smtpproxy contact`: what is known of people, filled, shown, exported and erased."""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click
from rich.table import Table

from smtpproxy.cli.common import audit_folder, config_option, fail, moment
from smtpproxy.cli.dry_run import dry_run_option, show_difference
from smtpproxy.cli.evidence import write_evidence
from smtpproxy.cli.import_file import import_file, import_options, time_of
from smtpproxy.cli.import_format import check_mapping_alone, layout_name, name_of, own_format
from smtpproxy.cli.import_record import Job, age_of, digest_of, to_resume
from smtpproxy.cli.kept_anchors import anchors_option, read_kept
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.cli.replace_import import to_replace
from smtpproxy.cli.rights import in_words, object_, rectify
from smtpproxy.cli.stores import (
    TIME_HELP,
    canonical_address,
    now,
    output_option,
    plain_text,
    using_store,
    warn,
)
from smtpproxy.locale.texts import LANGS, REFERENCE, Lang
from smtpproxy.policy.model import ConsentAct, Contact, Dealing, Link
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.erase import StillWritten, pseudonymise
from smtpproxy.store.exchange import contact_csv, contact_record
from smtpproxy.store.exchange.compare import ContactComparison
from smtpproxy.store.exchange.contact_record import written_contact
from smtpproxy.store.exchange.lines import Contents, read_lines
from smtpproxy.store.exchange.mapping import MappingFault, read_mapping
from smtpproxy.store.exchange.plausible import ContactCheck
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import Batch, Rectification, former_addresses
from smtpproxy.store.protocols import BatchResult, ContactUpdate, Store
from smtpproxy.terminal import printable


@click.group()
def command() -> None:
    """Fill, show, put right, export and erase contacts."""


command.add_command(rectify)
command.add_command(object_)


@command.command("import")
@import_options
@click.option(
    "--mapping",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.toml",
    help="Which column of a CSV is which field; else its columns have the fields' names.",
)
@click.option(
    "--as-of",
    type=moment,
    metavar="TIME",
    help="The moment that the file describes; else its last modification. A profile that is"
    f" no newer than the stored one changes nothing. {TIME_HELP}.",
)
@click.option(
    "--purpose",
    type=plain_text,
    help="What the consents in a provider's export are for; without it they are left out.",
)
@dry_run_option
@config_option
@json_option
def import_contacts(
    settings: Settings,
    file: Path,
    file_format: str | None,
    rejected: Path | None,
    resume: str | None,
    replace: str | None,
    mapping: Path | None,
    as_of: datetime | None,
    purpose: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Import contacts from NDJSON or CSV, or a provider's export of its contacts.

    Exports of Mailchimp, Mailjet, Brevo and listmonk are known by their headers.

    Profiles are updated, purchases and consent acts added; nothing is removed and no
    suppression lifted. Lines that cannot be read are put aside, and the exit code is 1.
    """
    check_mapping_alone(mapping, file_format)
    options = {
        "as-of": as_of.isoformat() if as_of else "",
        "format": file_format or "",
        "mapping": digest_of(mapping),
        "purpose": purpose or "",
    }
    earlier = to_resume(settings, resume, "contacts", options)
    replacing = to_replace(settings, replace, "contacts")
    age = earlier.as_of if earlier else replacing.age(age_of(time_of(file), as_of))
    own = own_format(file_format)
    wanted = contact_csv.Wanted(
        name_of(Path(earlier.file) if earlier else file),
        layout_name(file_format),
        own is not None,
        purpose or "",
    )
    try:
        columns = read_mapping(mapping) if mapping else None
    except MappingFault as error:
        fail(str(error), 2)

    encoding = columns.encoding if columns else None

    check = ContactCheck(settings, now())

    def contents(opened: BinaryIO, found: Format) -> Contents[ContactUpdate]:
        if found == "csv":
            read = contact_csv.read_csv(read_lines(opened, encoding), columns, age, wanted)
        elif purpose or wanted.layout:
            fail("NDJSON is our own form: it has no provider's --format, and says its purposes", 2)
        else:
            read = contact_record.read_ndjson(read_lines(opened, "utf-8"), age)
        return check.checked(read)

    if dry_run:
        judged = [
            (stream, settings.rulebooks[stream.rulebook]) for stream in settings.streams.values()
        ]
        code = show_difference(
            settings,
            file,
            Job("contacts", age, options),
            replacing,
            contents,
            lambda store: ContactComparison(store, judged, now()),
            file_format="csv" if mapping else own,
            as_json=as_json,
        )
        for notice in check.notices():
            warn(notice)
        return code

    def put(store: Store) -> Callable[[Sequence[ContactUpdate], Batch], Awaitable[BatchResult]]:
        async def into(updates: Sequence[ContactUpdate], batch: Batch) -> BatchResult:
            if orders := check.orders(updates):
                await store.add_suppressions(orders)
            return await store.put_contacts(updates, batch)

        return into

    code = import_file(
        settings,
        file,
        Job("contacts", age, options, earlier),
        contents,
        put,
        file_format="csv" if mapping else own,
        replacing=replacing,
        rejected=rejected,
        as_json=as_json,
    )
    for notice in check.notices():
        warn(notice)
    return code


@command.command("show")
@click.argument("address", type=canonical_address)
@config_option
@json_option
def show(settings: Settings, address: str, as_json: bool) -> int:
    """Show what is stored of an address; exit 1 when there is no contact."""

    async def read(store: Store) -> tuple[Contact | None, int, Sequence[Rectification]]:
        return (
            await store.contact(address),
            len(await store.suppressions(address)),
            await store.rectifications(address),
        )

    contact, suppressions, rectified = using_store(settings, read, read_only=True, or_empty=True)
    hint = f"suppressed: see smtpproxy suppress show {address}" if suppressions else ""
    if contact is None:
        fail("; ".join(filter(None, [f"there is no contact {address}", hint])))
    if as_json:
        told = json.loads(written_contact(contact))
        print_json({**told, "rectifications": rectified} if rectified else told, one_line=True)
        return 0
    table = _table(contact)
    for one in rectified:
        what = "; ".join(in_words(change) for change in one.changes)
        words = f"{written_time(one.at)} {what} ({one.reason})"
        table.add_row("put right", printable(words))
    rich_console().print(table)
    if hint:
        rich_console().print(hint, style="yellow", soft_wrap=True)
    return 0


def _table(contact: Contact) -> Table:
    table = Table.grid(padding=(0, 2))
    provenance = contact.provenance
    for name, value in (
        ("address", contact.address),
        ("audience", contact.audience),
        ("source", contact.source or "not known"),
        ("collected at", _time(contact.collected_at)),
        ("informed at", "was not told" if contact.never_informed else _time(contact.informed_at)),
        ("opt-out offered", _known(contact.optout_offered)),
        ("last activity at", _time(contact.last_activity_at)),
        ("occupations", ", ".join(sorted(contact.occupations))),
        ("tags", ", ".join(sorted(contact.tags))),
        ("supplier", provenance and (provenance.supplier or "not named")),
        ("sender disclosed", provenance and _known(provenance.sender_disclosed)),
        ("first contacted at", contact.first_contacted_at and _time(contact.first_contacted_at)),
        (
            "objected to profiling",
            contact.profiling_objected_at and _time(contact.profiling_objected_at),
        ),
    ):
        if value:
            table.add_row(name, printable(value))
    for link in provenance.chain if provenance else ():
        table.add_row("hand", printable(_hand(link)))
    for purchase in contact.purchases:
        told = f"{written_time(purchase.at)} {purchase.product}"
        kind = "" if purchase.kind is Dealing.SALE else f" ({purchase.kind})"
        table.add_row("purchase", printable(told + kind))
    for act in contact.acts:
        table.add_row("consent", printable(_act(act)))
    return table


def _act(act: ConsentAct) -> str:
    done = "withdrawn" if act.withdrawal else "asked for, not confirmed" if act.pending else "given"
    words = [written_time(act.at), act.purpose, done]
    words += [f"by {act.method}"] if act.method else []
    words += ["as a condition of the service"] if act.conditional else []
    words += [f"for {', '.join(sorted(act.channels))}"] if not act.withdrawal else []
    words += [f"wording {act.evidence.wording!r}"] if act.evidence.wording else []
    words += [f"version {act.evidence.version}"] if act.evidence.version else []
    words += [f"form {act.evidence.form!r}"] if act.evidence.form else []
    words += [f"from {act.evidence.ip}"] if act.evidence.ip else []
    proof = act.evidence.document_hash
    words += [f"document SHA-256 {proof}"] if proof else []
    return " ".join(words)


def _hand(link: Link) -> str:
    disclosed = {
        True: "disclosed this sender",
        False: "did not disclose this sender",
        None: "not known whether it disclosed this sender",
    }[link.sender_disclosed]
    date = f" on {link.at:%Y-%m-%d}" if link.at else ""
    return f"{link.supplier or 'not named'}: {disclosed}{date}"


def _known(told: bool | None) -> str:
    return "not known" if told is None else "yes" if told else "no"


def _time(moment: datetime | None) -> str:
    return written_time(moment) if moment else "not known"


@command.command("export")
@click.argument("address", type=canonical_address, required=False)
@click.option(
    "--evidence",
    is_flag=True,
    help="All about ADDRESS, as a document: what is stored, what was sent, how it is proven.",
)
@click.option(
    "--lang",
    type=click.Choice(LANGS),
    default=REFERENCE,
    show_default=True,
    help="The language of the document.",
)
@anchors_option
@output_option
@config_option
@json_option
def export(
    settings: Settings,
    address: str | None,
    evidence: bool,
    lang: Lang,
    kept: Path | None,
    output: BinaryIO,
    as_json: bool,
) -> int | None:
    """Export every contact, or that of ADDRESS, as NDJSON, in the form that `import` reads.

    With --evidence, the answer to a request about ADDRESS: HTML to a file named so, else
    Markdown, and beside a file the same as JSON. Exits with 1 when the audit log is not as
    it was written.
    """
    if evidence:
        if address is None:
            raise click.UsageError("--evidence is about one ADDRESS")
        known = read_kept(kept)
        return write_evidence(settings, address, output, lang, kept=known, as_json=as_json)
    if kept is not None:
        raise click.UsageError("--anchors goes with --evidence")

    async def write(store: Store) -> None:
        if address is not None:
            contact = await store.contact(address)
            if contact is None:
                fail(f"there is no contact {address}")
            output.write(written_contact(contact) + b"\n")
            return
        async with aclosing(store.export_contacts()) as contacts:
            async for contact in contacts:
                output.write(written_contact(contact) + b"\n")

    using_store(settings, write, read_only=True)
    return None


@command.command("erase")
@click.argument("address", type=canonical_address)
@click.option(
    "--scope",
    type=click.Choice(["marketing", "all"]),
    default="marketing",
    show_default=True,
    help="What they are not mailed any more; `all` is receipts and passwords too.",
)
@config_option
@json_option
def erase(settings: Settings, address: str, scope: str, as_json: bool) -> None:
    """Erase a contact with its whole history, and the person from the audit log (RGPD 17).

    What stays is an `erasure` suppression, which holds no address: the person gets no
    marketing again, and imports leave them out. It yields only to consent that the person
    gives later, recorded by `consent record`. The decisions stay on record without the
    person, and the record stays provable.

    It goes by the exact address: variants with another plus-tag, and addresses that the
    contact had before, are named, and erased one by one.
    """

    async def erase_(store: Store) -> tuple[bool, list[str]]:
        others = [
            *await store.variants(address),
            *former_addresses(await store.rectifications(address)),
        ]
        erased = await store.erase_contact(address, at=now(), scope=scope)
        return erased, list(dict.fromkeys(others))

    erased, others = using_store(settings, erase_)
    for other in others:
        warn(f"{other} may be the same person and is not erased: see contact erase {other}")
    try:
        rows = pseudonymise(audit_folder(settings), address)
    except StillWritten as error:
        fail(f"{address}: the contact is erased, but in the audit log {error}")
    if as_json:
        print_json({"address": address, "erased": erased, "suppressed": scope, "audit_rows": rows})
        return
    click.echo(
        f"{address}: {'erased' if erased else 'there was no contact'}; suppressed for {scope}"
    )
    if rows:
        are = "row is" if rows == 1 else "rows are"
        click.echo(f"audit log: {rows:,} {are} pseudonymised")
