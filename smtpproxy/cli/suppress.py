"""`smtpproxy suppress`: standing orders not to mail, added, lifted, shown and moved."""

import contextlib
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

import click

from smtpproxy.cli import suppress_key
from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.dry_run import dry_run_option, show_difference
from smtpproxy.cli.import_file import import_file, import_options, time_of
from smtpproxy.cli.import_format import check_mapping_alone, layout_name, name_of, own_format
from smtpproxy.cli.import_record import Job, age_of, digest_of, to_resume
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.replace_import import to_replace
from smtpproxy.cli.stores import (
    TIME_HELP,
    address_or_domain,
    keep_notes_option,
    last_moment,
    note_options,
    now,
    output_option,
    plain_text,
    scope_of,
    using_store,
    warn,
    warn_of_the_future,
)
from smtpproxy.cli.suppress_partner import export_snapshot, import_snapshot, partner_option
from smtpproxy.cli.suppress_rekey import rekey
from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.settings import Settings
from smtpproxy.store.exchange import suppression_file, suppression_record
from smtpproxy.store.exchange.compare import SuppressionComparison
from smtpproxy.store.exchange.lines import Contents, read_lines
from smtpproxy.store.exchange.mapping import SUPPRESSION_FIELDS, MappingFault, read_mapping
from smtpproxy.store.exchange.plausible import ScopeCheck
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.exchange.suppression_file import Wanted
from smtpproxy.store.exchange.suppression_record import Defaults, check_origin, read_scope
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import (
    LiftedSuppression,
    Store,
    StoreUnavailable,
    SuppressionEntry,
)
from smtpproxy.terminal import printable


def scope_type(value: str) -> str:
    """Read an option's scope. For `type=scope_type`."""
    try:
        return read_scope(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


ORIGIN = click.Choice([str(origin) for origin in Origin])
SCOPE_HELP = "all, marketing or purpose:NAME"


@click.group()
def command() -> None:
    """Add, lift, show, import and export suppressions."""


command.add_command(suppress_key.key)


command.add_command(rekey)


@command.command("add")
@click.argument("address", type=address_or_domain)
@click.option(
    "--scope",
    type=scope_type,
    metavar="SCOPE",
    default="all",
    show_default=True,
    help=f"{SCOPE_HELP}.",
)
@click.option(
    "--origin",
    type=ORIGIN,
    default="manual",
    show_default=True,
    help="Where the order comes from.",
)
@click.option("--since", type=last_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@note_options
@config_option
@json_option
def add(
    settings: Settings,
    address: str,
    scope: str,
    origin: str,
    since: datetime | None,
    note: str | None,
    as_json: bool,
) -> None:
    """Suppress an address from now on. The address itself is not stored.

    @example.com is everybody at that domain, *.example.com everybody at it and at its
    subdomains.
    """
    try:
        check_origin(address, Origin(origin))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if scope.startswith("purpose:"):
        scope = scope_of(settings, scope.removeprefix("purpose:"))
    warn_of_the_future("--since", since, "it suppresses from now on all the same")
    entry = SuppressionEntry(address, scope, Origin(origin), since or now(), note)
    result = using_store(settings, lambda store: store.add_suppressions([entry]))
    done = (
        "added"
        if result.added
        else "moved to the later time"
        if result.changed
        else "there already"
    )
    if as_json:
        print_json({"address": address, "scope": scope, "origin": origin, "result": done})
    else:
        click.echo(f"{address}: {scope}, {origin}: {done}")


@command.command("remove")
@click.argument("address", type=address_or_domain)
@click.option("--scope", type=scope_type, metavar="SCOPE", help=f"Only this scope: {SCOPE_HELP}.")
@click.option("--origin", type=ORIGIN, help="Only this origin.")
@click.option("--all", "everything", is_flag=True, help="Whatever the origin.")
@click.option(
    "--reason", type=plain_text, required=True, help="By whose right it is lifted; stays on record."
)
@config_option
@json_option
def remove(
    settings: Settings,
    address: str,
    scope: str | None,
    origin: str | None,
    everything: bool,
    reason: str,
    as_json: bool,
) -> int:
    """Lift suppressions of exactly this address and say which; exit 1 when there is none."""
    if (origin is None) is not everything:
        raise click.UsageError("say which with --origin, or lift every origin with --all")

    async def lift(store: Store) -> tuple[Sequence[Suppression], Sequence[Suppression]]:
        lifted = await store.remove_suppression(
            address,
            at=now(),
            reason=reason,
            scope=scope,
            origin=Origin(origin) if origin else None,
        )
        return lifted, await store.suppressions(address)

    lifted, left = using_store(settings, lift)
    if as_json:
        print_json({"address": address, "lifted": lifted, "left": left})
        return 0 if lifted else 1
    for suppression in lifted:
        click.echo(f"{address}: lifted: {_described(suppression)}")
    if not lifted:
        click.echo(f"{address}: nothing to lift", err=True)
    for suppression in left:
        click.echo(f"{address}: still suppressed: {_described(suppression)}")
    return 0 if lifted else 1


@command.command("show")
@click.argument("address", type=address_or_domain)
@config_option
@json_option
def show(settings: Settings, address: str, as_json: bool) -> int:
    """Show what suppresses an address, and what was lifted; exit 1 when nothing suppresses it."""

    async def read(store: Store) -> tuple[Sequence[Suppression], Sequence[LiftedSuppression]]:
        return await store.suppressions(address), await store.lifted_suppressions(address)

    found, lifted = using_store(settings, read, read_only=True, or_empty=True)
    _move_to_newest_key(settings, address)
    if as_json:
        print_json({"address": address, "suppressions": found, "lifted": lifted})
        return 0 if found else 1
    for suppression in found:
        click.echo(f"{address}: {_described(suppression)}")
    if not found:
        click.echo(f"{address}: not suppressed", err=True)
    for one in lifted:
        was = Suppression(one.scope, one.origin, one.since, note=one.note)
        click.echo(
            f"{address}: lifted on {written_time(one.lifted_at)}: {_described(was)}; "
            f"reason: {printable(one.reason)}"
        )
    return 0 if found else 1


def _move_to_newest_key(settings: Settings, address: str) -> None:
    """While the key is being replaced, use that the address is known just now."""
    with contextlib.suppress(StoreUnavailable):  # who may only read has been answered
        if len(using_store(settings, lambda store: store.keys(), read_only=True)) > 1:
            using_store(settings, lambda store: store.rekey([address]))


def _described(suppression: Suppression) -> str:
    text = f"{suppression.scope}, {suppression.origin}, since {written_time(suppression.since)}"
    if suppression.widened:
        text += ", through a variant of this mailbox"
    if suppression.domain:
        text += f", for the whole domain {suppression.domain}"
    if suppression.read_as:
        text += f", of {suppression.read_as}, which a mail server may take the address for"
    return text + (f" ({printable(suppression.note)})" if suppression.note else "")


@command.command("import")
@import_options
@click.option(
    "--mapping",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE.toml",
    help="Which column of a CSV is which field; else its columns have the fields' names, or"
    " those of a provider's export.",
)
@click.option("--scope", type=scope_type, metavar="SCOPE", help="For lines that have none.")
@click.option("--origin", type=ORIGIN, help="For lines that have none.")
@click.option(
    "--purpose",
    type=plain_text,
    help="What the list is about whose unsubscribes these are: they hold for purpose:NAME.",
)
@keep_notes_option
@partner_option("FILE is this partner's snapshot: it counts in place of the former one.")
@dry_run_option
@config_option
@json_option
def import_suppressions(
    settings: Settings,
    file: Path,
    file_format: str | None,
    rejected: Path | None,
    resume: str | None,
    replace: str | None,
    mapping: Path | None,
    scope: str | None,
    origin: str | None,
    purpose: str | None,
    keep_notes: bool,
    partner: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Import suppressions: CSV (address,scope,origin,since,note), NDJSON alike, or an export.

    Exports of SendGrid, Amazon SES, Mailgun, Postmark, Mailchimp, Mailjet, Brevo and
    listmonk are known by their headers. It only ever adds: no suppression is lifted. Without
    `since`, the time of the file counts. Lines that cannot be read are put aside, and the
    exit code is 1.
    """
    if partner is not None:
        given = (
            file_format,
            rejected,
            resume,
            replace,
            mapping,
            scope,
            origin,
            purpose,
            keep_notes or None,
            dry_run or None,
        )
        if any(option is not None for option in given):
            raise click.UsageError("--partner goes with FILE alone: a snapshot is taken whole")
        return import_snapshot(settings, partner, file, as_json=as_json)
    check_mapping_alone(mapping, file_format)
    options = {
        "format": file_format or "",
        "mapping": digest_of(mapping),
        "origin": origin or "",
        "purpose": purpose or "",
        "scope": scope or "",
        **({"keep-notes": "yes"} if keep_notes else {}),
    }
    earlier = to_resume(settings, resume, "suppressions", options)
    replacing = to_replace(settings, replace, "suppressions")
    age = earlier.as_of if earlier else age_of(time_of(file))
    defaults = Defaults(age, scope or "", origin or "", purpose or "")
    try:
        columns = read_mapping(mapping, SUPPRESSION_FIELDS) if mapping else None
    except MappingFault as error:
        fail(str(error), 2)
    own = own_format(file_format)
    named = Path(earlier.file) if earlier else file
    wanted = Wanted(name_of(named), layout_name(file_format), columns, own is not None)

    encoding = columns.encoding if columns else None
    check = ScopeCheck(settings, keep_notes=keep_notes)

    def contents(opened: BinaryIO, found: Format) -> Contents[SuppressionEntry]:
        if found == "csv":
            read = suppression_file.read_csv(read_lines(opened, encoding), defaults, wanted)
        else:
            read = suppression_file.read_ndjson(read_lines(opened, "utf-8"), defaults, wanted)
        return check.checked(read)

    if dry_run:
        code = show_difference(
            settings,
            file,
            Job("suppressions", age, options),
            replacing,
            contents,
            SuppressionComparison,
            file_format="csv" if mapping else own,
            as_json=as_json,
        )
        for notice in check.notices():
            warn(notice)
        return code
    code = import_file(
        settings,
        file,
        Job("suppressions", age, options, earlier),
        contents,
        lambda store: store.add_suppressions,
        file_format="csv" if mapping else own,
        replacing=replacing,
        rejected=rejected,
        as_json=as_json,
    )
    for notice in check.notices():
        warn(notice)
    return code


@command.command("export")
@output_option
@partner_option("Write a snapshot for this partner instead: hashes under the key shared with it.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "ndjson"]),
    default="csv",
    show_default=True,
    help="How to write it.",
)
@config_option
def export(
    settings: Settings,
    output: BinaryIO,
    partner: str | None,
    file_format: Literal["csv", "ndjson"],
) -> None:
    """Export every suppression in the form that `import` reads.

    Addresses are not stored, so keys stand in their place: they can be imported wherever
    the same suppression.key is.
    """
    if partner is not None:
        export_snapshot(settings, partner, output)
        return
    line = suppression_record.csv_line if file_format == "csv" else suppression_record.ndjson_line

    async def write(store: Store) -> None:
        if file_format == "csv":
            output.write(",".join(suppression_record.COLUMNS).encode() + b"\n")
        async with aclosing(store.export_suppressions()) as suppressions:
            async for key, suppression in suppressions:
                output.write(line(key, suppression).encode() + b"\n")

    using_store(settings, write, read_only=True)
