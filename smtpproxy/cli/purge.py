"""`smtpproxy purge`: remove data that has outlived its retention period."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from smtpproxy import retention
from smtpproxy.cli import fail, failing
from smtpproxy.cli.options import YES, Moment, ask_first, command, flag, option
from smtpproxy.cli.printer import Column, Part, Result, Table, print_text
from smtpproxy.cli.stores import using_store
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.policy.periods import Period
from smtpproxy.purge_runs import ClockDoubtful, check_clock
from smtpproxy.retention import Purged
from smtpproxy.settings import RetentionSettings, Settings
from smtpproxy.terminal import counted

_KINDS = {
    "contacts": "contacts",
    "suppressions": "suppressions",
    "lifted_suppressions": "lifted suppressions",
    "mailings": "counted messages",
    "reports": "reports that came by mail",
    "audit": "rows of the audit log",
}


@command("purge")
def purge(
    settings: Settings,
    dry_run: bool = flag("Show what would be removed; remove nothing."),
    at: Moment | None = option(
        "Remove what has outlived its period by TIME (default: now). A future time needs --dry-run."
    ),
    clock_is_right: bool = flag(
        "Purge though the clock is far from the last purge: somebody has checked it."
    ),
    yes: bool = YES,
) -> Result:
    """Remove data that has outlived its retention period ([retention] of the configuration).

    `serve` does this daily. Mail and imports continue meanwhile. Withdrawals and objections of a
    contact become suppressions before the contact is removed.
    """
    if at is not None and at > now() and not dry_run:
        fail(
            "--at: data that has not outlived its period yet must not be removed; add --dry-run", 2
        )
    if not (dry_run or clock_is_right):
        with failing(ClockDoubtful):
            check_clock(settings.server.state_dir, now())

    def run(*, dry_run: bool) -> Purged:
        return using_store(
            settings,
            lambda store: retention.purge(
                settings, store, at=at or now(), clock=now, dry_run=dry_run
            ),
            read_only=dry_run,
            or_empty=True,
        )

    def question() -> str | None:
        due = run(dry_run=True)
        if not (due.notes or any(kind.rows for kind in due.removed.values())):
            return None
        print_text(_text(due, settings.retention), err=True)
        return "Remove this for good?"

    with failing(retention.AlreadyRunning), failing(OverflowError, "--at: ", code=2):
        ask_first(question, yes=yes or dry_run)
        purged = run(dry_run=dry_run)
    return Result(_data(purged), _text(purged, settings.retention))


def _data(purged: Purged) -> Mapping[str, object]:
    return {
        **picked(purged, "at", "dry_run", "removed"),
        "orders_kept": purged.orders,
        "contacts_objected": purged.objected,
        "notes_forgotten": purged.notes,
        "addresses_matched": purged.matched,
        "suppressions_held": purged.held,
        "index_rows": purged.indexed,
        "suppressions_wait_for": purged.behind,
    }


def _text(purged: Purged, keep: RetentionSettings) -> Iterator[Part]:
    gone = "would go" if purged.dry_run else "removed"
    columns = [
        Column("kind"),
        Column("kept for", prose=True),
        Column(gone, right=True),
        Column("oldest", label="oldest"),
        Column("newest", label="newest"),
    ]
    rows = [
        (
            name,
            _kept_for(kind, keep),
            f"{purged.removed[kind].rows:,}",
            _day(purged.removed[kind].oldest),
            _day(purged.removed[kind].newest),
        )
        for kind, name in _KINDS.items()
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
    if purged.indexed:
        indexed = counted(purged.indexed, "row")
        yield f"{indexed} of the index of decisions removed (kept for {keep.index})"
    if purged.behind:
        relays = ", ".join(purged.behind)
        yield f"suppressions stay for now: mail that they matched may be in the journal of {relays}"


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
