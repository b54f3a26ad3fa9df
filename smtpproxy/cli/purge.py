"""`smtpproxy purge`: remove what has outlived its period."""

from collections.abc import Iterator
from datetime import datetime

import click

from smtpproxy.cli.common import config_option, fail, moment
from smtpproxy.cli.printer import Column, Part, Result, Table, shows_result
from smtpproxy.cli.stores import now, using_store
from smtpproxy.policy.periods import Period
from smtpproxy.retention import KINDS, AlreadyRunning, Purged, purge
from smtpproxy.settings import RetentionSettings, Settings
from smtpproxy.terminal import counted

_NAMES = {
    "contacts": "contacts",
    "suppressions": "suppressions",
    "lifted_suppressions": "lifted suppressions",
    "mailings": "counted messages",
    "audit": "rows of the audit log",
}


@click.command(short_help="Remove what has outlived its period.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option(
    "--at",
    type=moment,
    metavar="TIME",
    help="Remove what has outlived its period at TIME, else now. A time to come needs --dry-run.",
)
@shows_result
@config_option
def command(settings: Settings, dry_run: bool, at: datetime | None) -> Result:
    """Remove what has outlived its period ([retention] of the configuration).

    `serve` does it daily. Mail and imports go on meanwhile. What withdrew or objected is
    suppressed before its contact goes.
    """
    if at is not None and at > now() and not dry_run:
        fail("--at: what has not outlived its period yet must not be removed; add --dry-run", 2)
    try:
        purged = using_store(
            settings,
            lambda store: purge(settings, store, at=at or now(), clock=now, dry_run=dry_run),
            read_only=dry_run,
            or_empty=True,
        )
    except AlreadyRunning as error:
        fail(str(error))
    data = {
        "at": purged.at,
        "dry_run": purged.dry_run,
        "removed": purged.removed,
        "orders_kept": purged.orders,
        "contacts_objected": purged.objected,
        "addresses_matched": purged.matched,
        "suppressions_held": purged.held,
        "notes_forgotten": purged.notes,
    }
    return Result(data, _text(purged, settings.retention))


def _text(purged: Purged, keep: RetentionSettings) -> Iterator[Part]:
    gone = "would go" if purged.dry_run else "removed"
    columns = [
        Column("kind"),
        Column("kept for", prose=True),
        Column(gone, right=True, label=gone),
        Column("oldest", label="oldest"),
        Column("newest", label="newest"),
    ]
    rows = [
        (
            _NAMES[kind],
            _kept_for(kind, keep),
            f"{purged.removed[kind].rows:,}",
            _day(purged.removed[kind].oldest),
            _day(purged.removed[kind].newest),
        )
        for kind in KINDS
    ]
    yield Table(columns, rows)
    if purged.orders:
        verb = "would become" if purged.dry_run else "became"
        kept = "a suppression" if purged.orders == 1 else "suppressions"
        orders = counted(purged.orders, "withdrawal or objection", "withdrawals and objections")
        yield f"{orders} of contacts {verb} {kept}"
    if purged.objected:
        people = counted(purged.objected, "contact")
        yield f"{people} {gone} because the person objected: the suppression is kept"
    if purged.notes:
        verb = "would be forgotten" if purged.dry_run else "forgotten"
        yield f"{counted(purged.notes, 'note')} in free text {verb}; the suppressions stay"
    if purged.held:
        stay = counted(purged.held, "suppression stays", "suppressions stay")
        yield f"{stay} because a contact has the address"


def _kept_for(kind: str, keep: RetentionSettings) -> str:
    if kind == "contacts":
        customers, prospects = keep.customers, keep.prospects
        return str(prospects) if customers == prospects else f"{prospects}, {customers} (customers)"
    if kind == "mailings":
        return "the longest frequency cap"
    period: Period | None = getattr(keep, kind)
    return "ever" if period is None else str(period)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%d")
