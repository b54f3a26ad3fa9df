"""Run an import, or compare it with the store (--dry-run), and report the result."""

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, structs

from smtpproxy.access import Access
from smtpproxy.cli import fail
from smtpproxy.cli.import_record import (
    check_same,
    imported_before,
    imported_otherwise,
    locked,
    undo_import,
    undone_in_words,
)
from smtpproxy.cli.imports import Handling, Task
from smtpproxy.cli.outlook import (
    batch_judge,
    comparing,
    judged_again,
    outlook_for,
    outlook_object,
    outlook_text,
)
from smtpproxy.cli.printer import Part, Result, progress
from smtpproxy.cli.stores import read_store, using_store, warn
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.scrub.outlook import Findings, Outlook
from smtpproxy.store.exchange.compare import Comparison, Difference, Kind, compare
from smtpproxy.store.exchange.encodings import Decoder, has_cr_alone
from smtpproxy.store.exchange.files import STDIN, RejectedFault, RejectedFile, Source
from smtpproxy.store.exchange.lines import Contents, ImportFault, no_rows
from smtpproxy.store.exchange.run import Format, Import, Progress, format_of
from smtpproxy.store.operations import Batch, Checkpoint, ImportRecord, Undone
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

T = TypeVar("T")

_TITLES: dict[Kind, str] = {
    "new": "new",
    "changed": "changed",
    "ignored": "ignored: nothing new",
    "resurrected": "would resurrect: not mailed now, but mailed afterwards",
    "rejected": "would be rejected",
}


def run_import(task: Task, handling: Handling[T]) -> Result:
    """Import or compare the file, with progress on a terminal; return the result."""
    # A batch is many live objects and no cycles: with the default threshold a quarter of the time
    # goes into garbage collection.
    gc.set_threshold(500_000)
    with closing(Source(task.path)) as file:
        found = "csv" if task.options.mapping else task.options.own_format
        file_format = found or format_of(task.path, file.start[:64])
        try:
            outlook = outlook_for(task)
            if task.options.dry_run:
                return _compare(task, handling, file, file_format, outlook)
            return _import(task, handling, file, file_format, outlook)
        except RejectedFault as error:
            fail(str(error), 2)
        except ImportFault as error:
            fail(f"{task.shown}: {error}")


def _import(
    task: Task, handling: Handling[T], file: Source, file_format: Format, outlook: Outlook
) -> Result:
    earlier, rejected = task.earlier, task.options.rejected
    aside = RejectedFile(rejected or rejected_of(task.path), named=rejected is not None)
    start = time.monotonic()
    if has_cr_alone(file.start):
        warn(f"{task.shown}: its lines end in CR only; each is read as a line")
    if earlier is not None:
        check_same(earlier, file, task.shown)
    with progress(task.path.name, file.size) as show:
        try:
            contents = handling.contents(file, file_format)
            _warn(task, contents.notices)
            record = task.record(file.size)
            if file.size is not None and earlier is None:
                _check_not_before(task, record, file)
            aside.prepare(file.identity)
            run = _prepared(file, contents, aside, show, earlier)
            using_store(
                task.settings,
                lambda store: _run(task, store, record, run, handling, outlook, aside),
            )
        finally:
            with contextlib.suppress(OSError):  # then it was said already
                aside.close(complete=False)
    if file.size is None:
        _check_not_before(task, record, file, run.place)
    replaced = _replaced(task, run.progress)
    for notice in handling.notices():
        warn(notice)
    if file.size is not None and (earlier or replaced or outlook.missed):
        outlook = judged_again(task, handling, file_format)
    imported = _Imported(
        task, record, run.progress, contents.decoder, aside.path, replaced,
        time.monotonic() - start, outlook.findings(), file_format,
    )  # fmt: skip
    return Result(
        imported.data(),
        imported.text(),
        1 if run.progress.rejected else 0,
        _no_rows(task, contents, run.progress.lines),
    )


def _warn(task: Task, notices: Iterable[str]) -> None:
    for notice in notices:
        warn(f"{task.shown}: {notice}")


def _check_not_before(
    task: Task, record: ImportRecord, file: Source, place: Checkpoint | None = None
) -> None:
    """Warn when the file was imported under another mapping.

    Contacts are then not imported: a second consent act for the same fact would stay. With
    suppressions the worst that can happen is too many of them.
    """
    if task.keeps_both or task.replaces is not None:
        return
    if former := imported_otherwise(task.access, record, file, place):
        text = imported_before(task.shown, former)
        if record.kind == "contacts" and place is None:
            fail(f"{text}. To keep both, use --replace none", 2)
        warn(text)


def _prepared(
    file: Source,
    contents: Contents[T],
    aside: RejectedFile,
    show: Callable[[int, int | None], None],
    earlier: ImportRecord | None,
) -> Import[T]:
    """Return the import, set up to continue where an earlier run stopped."""
    done, place = Progress(), Checkpoint()
    if earlier is not None:
        place = earlier.place
        aside.go_on(place.rejected, place.aside)
        done = Progress(
            **picked(place, "lines", "rejected", "passed", "refusals"),
            **picked(earlier, "added", "changed", "unchanged", "older", "erased"),
        )
    return Import(
        file, contents, aside, lambda now: show(now.octets, now.lines), progress=done, place=place
    )


def rejected_of(path: Path) -> Path:
    """Return FILE.rejected; for a pipe, one in the working folder."""
    folder = path.parent.resolve()  # /dev/fd is one of /proc; /dev/shm has files like any other
    if path == STDIN or folder == Path("/dev") or folder.is_relative_to("/proc"):
        return Path("stdin.rejected")
    return path.with_name(f"{path.name}.rejected")


async def _run(
    task: Task,
    store: Store,
    record: ImportRecord,
    run: Import[T],
    handling: Handling[T],
    outlook: Outlook,
    aside: RejectedFile,
) -> None:
    put, look = handling.put(store), batch_judge(store, handling, outlook)
    with locked(task.settings, record.id):
        if task.earlier is not None:
            await store.mark_import(record.id, "running", at=None)
        else:
            await store.begin_import(record)
        try:
            await run.into(lambda items, place: put(items, Batch(record.id, place)), look)
            aside.close(complete=run.progress.lines > 0)
            await store.mark_import(record.id, "complete", at=now(), place=run.place)
        except BaseException as error:
            rest = "run it again for the rest"
            if record.size is not None:
                rest += f" with --resume {record.id}"
            if isinstance(error, asyncio.CancelledError):
                warn(f"interrupted: {_counts(run.progress, task.access)} so far; {rest}")
            else:
                error.add_note(f"before that {_counts(run.progress, task.access)}; {rest}")
            with contextlib.suppress(StoreUnavailable):
                await store.mark_import(record.id, "interrupted", at=now())
            raise


def _replaced(task: Task, progress: Progress) -> Undone | None:
    """Undo the import that this one corrects, if this one is complete."""
    former = task.replaces
    if former is None or not progress.lines or progress.rejected:
        return None
    return undo_import(task.settings, former, task.access)


def _counts(progress: Progress, access: Access) -> str:
    if not access.everything:  # the token must not learn whom others know
        taken = progress.added + progress.changed + progress.unchanged
        return f"{taken:,} imported, {progress.rejected:,} rejected"
    return (
        f"{progress.added:,} added, {progress.changed:,} changed, "
        f"{progress.unchanged:,} unchanged, {progress.rejected:,} rejected"
    )


def _no_rows(task: Task, contents: Contents[T], lines: int) -> str:
    """Return the error for a file without rows, or an empty text."""
    return "" if lines else f"{task.shown}: {no_rows(contents.header)}"


class _Imported(Struct, frozen=True):
    """The result of an import."""

    task: Task
    record: ImportRecord
    progress: Progress
    decoder: Decoder | None
    rejected: Path
    replaced: Undone | None
    seconds: float
    outlook: Findings
    file_format: Format

    def data(self) -> dict[str, object]:
        former, undone = self.task.replaces, self.replaced
        replaced = None
        if former and undone:
            replaced = {"id": former.id, **picked(undone, "removed", "put_back", "kept")}
        return {
            "id": self.record.id,
            "file": self.task.path,
            **structs.asdict(self.progress),
            "encoding": self.decoder.found() if self.decoder else "utf-8",
            "rejected_file": self.rejected if self.progress.rejected else None,
            "replaced": replaced,
            "seconds": round(self.seconds, 3),
            "outlook": outlook_object(self.outlook, self.file_format),
        }

    def text(self) -> Iterator[Part]:
        done, record, former = self.progress, self.record, self.task.replaces
        yield f"{self.task.shown}: {_counts(done, self.task.access)} in {self.seconds:.1f} s"
        if self.decoder is not None and (note := self.decoder.note()):
            yield note
        if done.passed:
            yield f"{counted(done.passed, 'row')} skipped: nothing to import"
        if done.older:
            yield f"{done.older:,} had a different profile, no newer than the stored one"
        if done.erased:
            yield f"{done.erased:,} left out: erased, and only the people themselves can come back"
        if former is not None and self.replaced is not None:
            yield f"{former.id} was undone: {undone_in_words(former, self.replaced)}"
        elif former is not None and done.lines:
            yield (
                f"{former.id} was not undone, because lines were rejected: its data about these "
                f"people is still needed. To undo it later: smtpproxy import undo {former.id}"
            )
        if done.added or done.changed or done.unchanged:
            yield f"to undo it: smtpproxy import undo {record.id}"
        yield from _refusals(done.refusals)
        if done.rejected:
            yield f"the rejected lines and their reasons: {self.rejected}"
        yield from outlook_text(self.outlook, self.file_format, record.id, rejected=done.rejected)


def _compare(
    task: Task, handling: Handling[T], file: Source, file_format: Format, outlook: Outlook
) -> Result:
    """Compare the file with the store; return the differences.

    Samples show addresses on a terminal only; elsewhere they have line numbers.
    """
    start = time.monotonic()
    contents = handling.contents(file, file_format)
    if file.size is not None:
        _warn_if_before(task, file)
    _warn(task, contents.notices)
    with progress(task.path.name, file.size) as show:
        done = read_store(
            task.settings,
            lambda store: compare(
                contents,
                comparing(store, handling, outlook),
                lambda lines: show(file.tell(), lines),
            ),
        )
    if file.size is None:
        _warn_if_before(task, file, Checkpoint(octets=file.tell(), digest=file.digest()))
    if contents.decoder is not None and (note := contents.decoder.note()):
        _warn(task, [note])
    for notice in handling.notices():
        warn(notice)
    with_address = on_a_terminal()
    data: dict[str, object] = {
        "file": task.path,
        "dry_run": True,
        "lines": done.lines,
        **{str(kind): count for kind, count in done.counts.items()},
        **picked(done, "refusals", "passed"),
        "samples": [_sample(one, with_address=with_address) for one in done.samples],
        "seconds": round(time.monotonic() - start, 3),
        "outlook": outlook_object(outlook.findings(), file_format),
    }
    return Result(
        data,
        (
            *_compared(task, done, with_address=with_address),
            *outlook_text(outlook.findings(), file_format),
        ),
        1 if done.counts["rejected"] else 0,
        _no_rows(task, contents, done.lines),
    )


def _warn_if_before(task: Task, file: Source, place: Checkpoint | None = None) -> None:
    """Warn when the file was imported under another mapping; `place` is the end of a pipe."""
    record = task.record(file.size)
    if task.keeps_both:
        return
    if former := imported_otherwise(task.access, record, file, place):
        warn(imported_before(task.shown, former))


def _sample(one: Difference, *, with_address: bool) -> dict[str, object]:
    sample: dict[str, object] = {"kind": one.kind, "line": one.line, "what": one.what}
    return sample | {"address": one.address} if one.address and with_address else sample


def _refusals(count: int) -> Iterator[Part]:
    """A refusal counts even if the rest of its row cannot be read."""
    if count:
        yield f"{counted(count, 'refusal')} in rejected rows: they count anyway"


def on_a_terminal() -> bool:
    return sys.stdout.isatty()


def _compared(task: Task, done: Comparison, *, with_address: bool) -> Iterator[Part]:
    counts = ", ".join(f"{done.counts[kind]:,} {kind}" for kind in _TITLES)
    yield f"{task.shown}: {counts}; nothing was written"
    if done.passed:
        yield f"{counted(done.passed, 'row')} skipped: nothing to import"
    yield from _refusals(done.refusals)
    for kind, title in _TITLES.items():
        samples = [one for one in done.samples if one.kind == kind]
        if not samples:
            continue
        yield f"{title}:"
        for one in samples:
            shown = f" {one.address}" if one.address and with_address else ""
            yield f"  line {one.line}:{shown} {one.what}"
        if done.counts[kind] > len(samples):
            yield f"  and {done.counts[kind] - len(samples):,} more"
