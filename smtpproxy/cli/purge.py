"""`smtpproxy purge`: remove what has outlived its period."""

from datetime import datetime

import click
from rich.table import Table

from smtpproxy.cli.common import config_option, console, fail, json_option, moment, print_json
from smtpproxy.cli.stores import now, using_store
from smtpproxy.policy.periods import Period
from smtpproxy.retention.history import KINDS
from smtpproxy.retention.run import AlreadyRunning, Purged, purge
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
@json_option
@config_option
def command(settings: Settings, dry_run: bool, at: datetime | None, as_json: bool) -> None:
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
    if as_json:
        print_json(
            {
                "at": purged.at,
                "dry_run": purged.dry_run,
                "removed": purged.removed,
                "orders_kept": purged.orders,
                "addresses_matched": purged.matched,
                "suppressions_held": purged.held,
            }
        )
    else:
        _print(purged, settings.retention)


def _print(purged: Purged, keep: RetentionSettings) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    table.add_column("kept for")
    table.add_column("would go" if purged.dry_run else "removed", justify="right")
    table.add_column("oldest")
    table.add_column("newest")
    for kind in KINDS:
        removed = purged.removed[kind]
        table.add_row(
            _NAMES[kind],
            _kept_for(kind, keep),
            f"{removed.rows:,}",
            _day(removed.oldest),
            _day(removed.newest),
        )
    console.print(table)
    if purged.orders:
        verb = "would become" if purged.dry_run else "became"
        kept = "a suppression" if purged.orders == 1 else "suppressions"
        orders = counted(purged.orders, "withdrawal or objection", "withdrawals and objections")
        console.print(f"{orders} of contacts {verb} {kept}")
    if purged.held:
        stay = counted(purged.held, "suppression stays", "suppressions stay")
        console.print(f"{stay} since a contact has the address")


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
