"""`smtpproxy suppress`: orders not to mail, added, lifted, shown, imported and exported."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import BinaryIO, Literal

import click
from msgspec.structs import asdict

from smtpproxy.cli import fail, failing
from smtpproxy.cli.import_file import run_import
from smtpproxy.cli.import_record import access_of, rejecting
from smtpproxy.cli.imports import Handling, ImportOptions, prepare
from smtpproxy.cli.options import (
    TIME_HELP,
    AddressOrDomain,
    FileOrStdin,
    LastMoment,
    Options,
    RecordedName,
    Text,
    command,
    flag,
    option,
)
from smtpproxy.cli.outlook import with_effect
from smtpproxy.cli.partner import export_snapshot, import_snapshot
from smtpproxy.cli.printer import Aside, Part, Result
from smtpproxy.cli.stores import (
    KEEP_NOTES_HELP,
    NoteOptions,
    Scope,
    check_brand,
    check_motive,
    constants_of,
    known_scope,
    read_store,
    using_store,
    warn_of_the_future,
)
from smtpproxy.cli.suppress_keys import key, move, rekey
from smtpproxy.clock import now
from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.scrub.outlook import Outlook
from smtpproxy.settings import Settings
from smtpproxy.store.exchange import suppression_file, suppression_record
from smtpproxy.store.exchange.compare import SuppressionComparison
from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import Contents, read_lines
from smtpproxy.store.exchange.mapping import SUPPRESSION_FIELDS, MappingFault, read_mapping
from smtpproxy.store.exchange.plausible import by_now
from smtpproxy.store.exchange.plausible_scopes import ScopeCheck
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.exchange.suppression_record import LIFT_MOTIVES, Defaults, check_origin
from smtpproxy.store.exchange.tables import read_table
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.records import LiftedSuppression, StoreUnavailable, SuppressionEntry
from smtpproxy.store.sql.store import Store

SCOPE_HELP = "all, marketing, brand:NAME or purpose:NAME"


@click.group("suppress")
def suppress() -> None:
    """Add, lift, show, import and export suppressions."""


suppress.add_command(key)
suppress.add_command(rekey)
suppress.add_command(move)


class AddOptions(NoteOptions, frozen=True):
    """What must not be sent, and by whose order."""

    scope: Scope | None = option(f"{SCOPE_HELP} (default: all; for an erasure, marketing).")
    origin: Origin = option("Where the order comes from.", default="manual")
    since: LastMoment | None = option(f"When it began (default: now). {TIME_HELP}.")


@command("add", suppress)
def add(settings: Settings, address: AddressOrDomain, options: AddOptions) -> Result:
    """Suppress an address from now on. The address itself is not stored.

    @example.com means everybody at that domain, *.example.com everybody at it and its
    subdomains.
    """
    origin, since = options.origin, options.since
    scope = options.scope or ("marketing" if origin is Origin.ERASURE else "all")
    try:
        check_origin(address, origin)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    scope = known_scope(settings, scope)
    warn_of_the_future("--since", since, "it suppresses from now on anyway")
    since = by_now(since or now(), now())
    entry = SuppressionEntry(address, scope, origin, since, options.checked_note())
    stored = using_store(settings, lambda store: store.add_suppressions([entry]))
    done = "moved to the later time" if stored.changed else "there already"
    if stored.added:
        done = "added"
    result = Result(
        {"address": address, "scope": scope, "origin": origin, "result": done},
        [f"{address}: {scope}, {origin}: {done}"],
    )
    return with_effect(settings, address, result)


class RemoveOptions(Options, frozen=True):
    """Which suppressions are lifted, and why."""

    scope: Scope | None = option(f"Lift only this scope: {SCOPE_HELP}.")
    origin: Origin | None = option("Lift only this origin.")
    everything: bool = flag("Lift every origin.", name="--all")
    reason: Text = option(
        "On whose authority it is lifted, from a closed list; stays on record.", required=True
    )
    keep_notes: bool = flag(
        "Keep free text as the reason for a year. It must not contain personal data."
    )


@command("remove", suppress)
def remove(settings: Settings, address: RecordedName, options: RemoveOptions) -> Result:
    """Lift suppressions of exactly this address, and show which; exits with 1 if there is none."""
    if (options.origin is None) is not options.everything:
        raise click.UsageError("name one with --origin, or lift every origin with --all")
    check_motive("--reason", options.reason, LIFT_MOTIVES[:4], keep=options.keep_notes)

    async def lift(store: Store) -> tuple[Sequence[Suppression], Sequence[Suppression]]:
        lifted = await store.remove_suppression(
            address,
            at=now(),
            reason=options.reason,
            scope=options.scope,
            origin=options.origin,
        )
        return lifted, await store.suppressions(address)

    lifted, left = using_store(settings, lift)

    def text() -> Iterator[Part]:
        for one in lifted:
            yield f"{address}: lifted: {_described(one)}"
        if not lifted:
            yield Aside(f"{address}: nothing to lift")
        for one in left:
            yield f"{address}: still suppressed: {_described(one)}"

    data = {"address": address, "lifted": lifted, "left": left}
    if not lifted:
        return Result(data, text(), 1)
    return with_effect(settings, address, Result(data, text()))


@command("show", suppress)
def show(settings: Settings, address: RecordedName) -> Result:
    """Show what suppresses an address, and what was lifted; exits with 1 if nothing does now."""

    async def read(
        store: Store,
    ) -> tuple[Sequence[Suppression], Sequence[LiftedSuppression], Mapping[tuple[str, str], str]]:
        return (
            await store.suppressions(address),
            await store.lifted_suppressions(address),
            await store.authors(address),
        )

    found, lifted, authors = read_store(settings, read)
    _move_to_newest_key(settings, address)

    def text() -> Iterator[Part]:
        for one in found:
            program = authors.get((one.scope, one.origin))
            yield f"{address}: {_described(one)}" + (f", by {program}" if program else "")
        if not found:
            yield Aside(f"{address}: not suppressed")
        for gone in lifted:
            was = Suppression(gone.scope, gone.origin, gone.since, note=gone.note)
            yield (
                f"{address}: lifted on {written_time(gone.lifted_at)}: {_described(was)}; "
                f"reason: {gone.reason}" + (f", by {gone.lifted_by}" if gone.lifted_by else "")
            )

    given_by = [
        {"scope": scope, "origin": origin, "program": program}
        for (scope, origin), program in authors.items()
    ]
    data = {"address": address, "suppressions": found, "suppressed_by": given_by, "lifted": lifted}
    return Result(data, text(), 0 if found else 1)


def _move_to_newest_key(settings: Settings, address: str) -> None:
    """While the key is being replaced, move this address's rows to the newest one."""
    with contextlib.suppress(StoreUnavailable):  # without write access, showing them is enough
        if len(using_store(settings, lambda store: store.keys(), read_only=True)) > 1:
            using_store(settings, lambda store: store.rekey([address]))


def _described(suppression: Suppression) -> str:
    text = f"{suppression.scope}, {suppression.origin}, since {written_time(suppression.since)}"
    if suppression.widened:
        text += ", through a variant of this mailbox"
    if suppression.domain:
        text += f", for the whole domain {suppression.domain}"
    if suppression.read_as:
        text += f", of {suppression.read_as}, which a mail server may read the address as"
    return text + (f" ({suppression.note})" if suppression.note else "")


class SuppressionImport(ImportOptions, frozen=True):
    """How suppressions are imported."""

    scope: Scope | None = option("The scope of lines that have none.")
    origin: Origin | None = option("The origin of lines that have none.")
    purpose: Text | None = option(
        "The purpose of the list these people left: they are suppressed for purpose:NAME."
    )
    brand: Text | None = option(
        "The brand whose list it is: lines for all marketing count for brand:NAME instead.",
        metavar="NAME",
    )
    keep_notes: bool = flag(KEEP_NOTES_HELP)
    partner: str | None = option(
        "Import FILE as this partner's snapshot, which replaces the former one.", metavar="NAME"
    )


@command("import", suppress)
def import_suppressions(
    settings: Settings, file: FileOrStdin, options: SuppressionImport
) -> Result:
    """Import suppressions: CSV (address,scope,origin,since,note), the same as NDJSON, or an export.

    Exports of SendGrid, Amazon SES, Mailgun, Postmark, Mailchimp, Mailjet, Brevo and
    listmonk are recognised by their headers. An import only adds: no suppression is lifted.
    Without `since`, the time of the file counts. Lines that cannot be read are set aside, and
    the exit code is 1.
    """
    access = access_of(settings, options.job)
    settings = access.settings
    given = {name: getattr(options, name) for name in ("scope", "origin", "purpose")}
    if options.brand is not None:
        check_brand(settings, options.brand)
        given["brand"] = options.brand
    if options.partner is not None:
        if any(value for name, value in asdict(options).items() if name != "partner"):
            raise click.UsageError("--partner takes no other options: a snapshot is imported whole")
        return import_snapshot(settings, options.partner, file)
    # Only if given: --resume compares it.
    notes = {"keep-notes": "yes"} if options.keep_notes else {}
    task = prepare(access, file, "suppressions", options, given | notes)
    with failing(MappingFault, code=2):
        columns = read_mapping(options.mapping, SUPPRESSION_FIELDS) if options.mapping else None
    age = task.as_of
    defaults = Defaults(age, **{name: text or "" for name, text in given.items()})
    constants = constants_of(settings, "suppressions", options.constants)
    wanted = Wanted(
        task.hint, options.layout, columns, options.own_format is not None, constants=constants
    )
    limit = None if access.everything else rejecting(access.check_scope)
    check = ScopeCheck(settings, now(), age, keep_notes=options.keep_notes, own=limit)

    def contents(opened: BinaryIO, found: Format) -> Contents[SuppressionEntry]:
        if found == "csv":
            lines = read_table(opened, columns)
            return check.checked(suppression_file.read_csv(lines, defaults, wanted))
        if constants:
            fail("--set works with tables only; in NDJSON each line has every field", 2)
        lines = read_lines(opened, "utf-8")
        return check.checked(suppression_file.read_ndjson(lines, defaults, wanted))

    return run_import(
        task,
        Handling(
            contents,
            SuppressionComparison,
            lambda store: store.add_suppressions,
            check.notices,
            Outlook.suppressed,
        ),
    )


@command("export", suppress)
def export(
    settings: Settings,
    output: BinaryIO,
    partner: str | None = option(
        "Write a snapshot for this partner instead: hashes made with the shared key.",
        metavar="NAME",
    ),
    file_format: Literal["csv", "ndjson"] = option(
        "The format of the file.", name="--format", default="csv"
    ),
) -> None:
    """Export every suppression in the format that `import` reads.

    Addresses are not stored, so the export has keys instead: it can be imported wherever the
    same suppression.key is in use.
    """
    if partner is not None:
        export_snapshot(settings, partner, output)
        return
    as_csv = file_format == "csv"
    line = suppression_record.csv_line if as_csv else suppression_record.ndjson_line

    async def write(store: Store) -> None:
        if as_csv:
            output.write(",".join(suppression_record.COLUMNS).encode() + b"\n")
        async with aclosing(store.export_suppressions()) as suppressions:
            async for key, suppression in suppressions:
                output.write(line(key, suppression).encode() + b"\n")

    using_store(settings, write, read_only=True)
