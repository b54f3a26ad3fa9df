"""`smtpproxy audit verify`, `anchor` and `replay`: prove the record, or judge it again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click

from smtpproxy.cli import fail
from smtpproxy.cli.journals import (
    ANCHORS,
    COPIES,
    Journal,
    audit_folder,
    check_stream,
    journals,
    read_kept,
)
from smtpproxy.cli.options import (
    ExistingFile,
    ExistingFolder,
    Moment,
    command,
    flag,
    option,
)
from smtpproxy.cli.printer import (
    Column,
    Part,
    Result,
    Styled,
    Table,
    print_json,
    print_text,
    verify_progress,
)
from smtpproxy.clock import now
from smtpproxy.config import read_rulebook
from smtpproxy.core.evaluation import Change, replay, words
from smtpproxy.disk import is_dir, is_file
from smtpproxy.events import picked
from smtpproxy.evidence.gather import report_object
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.rulebooks import RulebookError
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit import verify as journal_verify
from smtpproxy.sinks.audit.anchors import AnchorRow
from smtpproxy.sinks.audit.chain import Finding, Report
from smtpproxy.sinks.audit.reader import Record, read
from smtpproxy.terminal import counted

_SHOWN = 100


@command("verify")
def verify(
    settings: Settings,
    since: Moment | None = option("Only files with lines from TIME on."),
    until: Moment | None = option("Only files with lines before TIME."),
    kept: ExistingFile | None = ANCHORS,
    shipped: ExistingFolder | None = COPIES,
) -> Result:
    """Find what was changed, removed, added, moved or cut off, and where.

    Checks the hashes from line to line, the times and the erasures, and compares them with
    the anchors. Exits with 1 when anything is wrong, but not for rows that no anchor seals yet:
    those are only reported. Works while the relay runs. With --from, each relay's log is compared
    with its own anchors, as they were shipped.
    """
    logs = journals(settings, shipped)
    if kept is not None and len(logs) > 1:
        raise click.UsageError("--anchors is for one relay: name its folder with --from")
    elsewhere = read_kept(kept)
    total = sum(journal_verify.size(log.folder, since, until) for log in logs)
    with verify_progress(total) as looked:
        reports = [
            journal_verify.verify(
                log.folder, since=since, until=until, kept=elsewhere, progressed=looked, now=now()
            )
            for log in logs
        ]
    code = 1 if any(report.wrong for report in reports) else 0
    if shipped is None:
        return Result(report_object(reports[0]), _report(reports[0]), code)
    data = [
        {"relay": log.relay, "folder": log.folder.name, **report_object(report)}
        for log, report in zip(logs, reports, strict=True)
    ]
    return Result({"relays": data}, _of_relays(logs, reports), code)


def _of_relays(logs: Sequence[Journal], reports: Sequence[Report]) -> Iterator[Part]:
    for log, report in zip(logs, reports, strict=True):
        yield Styled(f"{log.relay}, in {log.folder}", "bold")
        yield from _report(report)
        yield ""


@command("anchor")
def anchor(settings: Settings) -> Result:
    """Write an anchor for the record as it is now, and print it to be kept elsewhere.

    Keep the output where nobody who can write this machine's files can change it: a
    ticket, a mail, a notary. `audit verify --anchors FILE` compares it later.
    """
    folder = audit_folder(settings)
    if not is_dir(folder):
        fail("nothing is on record yet")
    taken = anchors.take(folder, "asked", now)
    if taken is None or not isinstance(row := taken.row, AnchorRow) or not row.heads:
        fail("nothing is on record yet")
    heads = {slot: picked(head, "file", "n", "hash") for slot, head in row.heads.items()}
    text = [f"anchor {taken.n} of {row.at:%Y-%m-%d %H:%M:%S} UTC: {taken.hash}"]
    text += [
        f"worker {slot}: row {head.n} in {head.file}: {head.hash}"
        for slot, head in row.heads.items()
    ]
    if row.changes is not None:
        text.append(f"journal of changes: change {row.changes.n}: {row.changes.hash}")
    data = {"at": row.at, "n": taken.n, "hash": taken.hash, "heads": heads, "changes": row.changes}
    return Result(data, text, one_line=True)


def _report(report: Report) -> Iterator[Part]:
    yield (
        f"{counted(report.files, 'file')}, {counted(report.lines, 'row')}, "
        f"{counted(report.decisions, 'decision')}; {counted(report.anchors, 'anchor')}, "
        f"{report.compared:,} of them compared"
    )
    for slot, head in report.heads.items():
        yield (f"worker {slot}: verified up to row {head.n}, {head.hash}")
    for finding in report.notes():
        yield (f"note: {finding.file}: {finding.what}. {finding.meaning}")
    faults = list(report.faults())
    for finding in faults[:_SHOWN]:
        yield (f"{_where(finding)}: {finding.kind}: {finding.what}")
        yield (f"  {finding.meaning}")
    if len(faults) > _SHOWN:
        yield (f"… and {report.wrong - _SHOWN:,} more: see --json")
    yield from _proven(report)
    yield (f"wrong: {report.wrong:,}" if report.wrong else "nothing is wrong")


def _proven(report: Report) -> Iterator[str]:
    witness = report.witness
    if witness is None:
        if report.lines:
            yield "nothing is proven: there is no anchor"
        return
    if not witness.n:
        yield "nothing is proven: no anchor kept elsewhere is in the record"
        return
    where = "which was kept elsewhere" if witness.kept else "which is only on this machine"
    yield f"proven up to anchor {witness.n} of {witness.at:%Y-%m-%d %H:%M:%S} UTC, {where}"
    if not witness.kept:
        yield "  Anyone who can write these files could have rewritten all of it: use --anchors."
    if report.unproven:
        rows = counted(report.unproven, "row after it is", "rows after it are")
        yield f"{rows} unproven"


def _where(finding: Finding) -> str:
    words = [finding.file]
    if finding.line is not None:
        words.append(f"line {finding.line}")
    if finding.n is not None:
        words.append(f"row {finding.n}")
    if finding.id is not None:
        words.append(f"decision {finding.id}")
    return ", ".join(words)


@command("replay")
def replay_command(
    settings: Settings,
    as_json: bool,
    reference: str = option(
        "The rulebook: built in, named in the configuration, or a file of your own.",
        name="--rulebook",
        required=True,
        metavar="NAME|FILE",
    ),
    since: Moment | None = option("Only decisions from TIME on."),
    until: Moment | None = option("Only decisions before TIME."),
    stream: str | None = option("Only decisions on this stream.", metavar="NAME"),
    listed: bool = flag("Print every verdict that would differ.", name="--list"),
    shipped: ExistingFolder | None = COPIES,
) -> None:
    """Judge recorded decisions again under another rulebook, and count the differences.

    Each is judged as of its own time, from the facts on record, not from the store as it is
    today. Nothing is sent or recorded.
    """
    rulebook = _rulebook(settings, reference)
    totals = _Totals()
    check_stream(settings, shipped, stream)
    logs = journals(settings, shipped)
    records = (read(log.folder, since=since, until=until, stream=stream) for log in logs)
    for record in chain.from_iterable(records):
        for change in totals.add(record, rulebook):
            if listed and as_json:
                print_json(_as_object(record, change), one_line=True)
            elif listed:
                print_text([_line(record, change)])
    if as_json:
        print_json(totals.as_object(rulebook), one_line=listed)
    else:
        print_text(totals.text(rulebook))


class _Totals:
    """Running counts; the records themselves are not kept."""

    def __init__(self) -> None:
        self._decisions = self._recipients = self._erased = self._differing = 0
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, record: Record, rulebook: Rulebook) -> Iterator[Change]:
        result = replay(record.decided, rulebook)
        self._decisions += 1
        self._recipients += result.judged
        self._erased += result.erased
        self._differing += bool(result.changes)
        for change in result.changes:
            what = "message" if change.recipient is None else "recipient"
            self._counts[what, words(change.before), words(change.after)] += 1
            yield change

    def as_object(self, rulebook: Rulebook) -> dict[str, Any]:
        return {
            "rulebook": rulebook.name,
            "decisions": self._decisions,
            "recipients": self._recipients,
            "erased": self._erased,
            "differing": self._differing,
            "changes": [
                {"of": what, "before": before, "after": after, "count": count}
                for (what, before, after), count in self._counts.most_common()
            ],
        }

    def text(self, rulebook: Rulebook) -> Iterator[Part]:
        people = counted(self._recipients, "recipient")
        yield (
            f"{counted(self._decisions, 'decision')} about {people}, judged again under "
            f"{rulebook.name}: {counted(self._differing, 'differs', 'differ')}"
        )
        if self._erased:
            are = counted(self._erased, "more recipient is", "more recipients are")
            yield f"{are} erased and cannot be judged"
        if self._counts:
            columns = [
                Column("of"),
                Column("before"),
                Column("after"),
                Column("count", right=True),
            ]
            yield Table(
                columns,
                [(*change, f"{count:,}") for change, count in self._counts.most_common()],
            )


def _rulebook(settings: Settings, reference: str) -> Rulebook:
    if reference in settings.rulebooks:
        return settings.rulebooks[reference]
    path = Path(reference)
    try:
        return read_rulebook(str(path.resolve()) if is_file(path) else reference)
    except RulebookError as error:
        fail("; ".join(error.faults), 2)


def _as_object(record: Record, change: Change) -> dict[str, Any]:
    decided, recipient = record.decided, change.recipient
    return {
        "id": decided.id,
        "at": decided.at,
        "stream": decided.decision.stream.name,
        "recipient": recipient and recipient.address,
        "before": words(change.before),
        "after": words(change.after),
        "detail": change.after.detail,
    }


def _line(record: Record, change: Change) -> str:
    decided, recipient = record.decided, change.recipient
    whom = recipient.address if recipient else "(the message)"
    return (
        f"{decided.id} {decided.at:%Y-%m-%d %H:%M:%S} {decided.decision.stream.name} {whom}: "
        f"{words(change.before)} -> {words(change.after)}"
    )
