"""`smtpproxy backup` and `smtpproxy restore`: everything the relay knows, saved and put back."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import click

from smtpproxy.backup.journals import own_journals
from smtpproxy.backup.manifest import BackupFault, Manifest, take
from smtpproxy.backup.replay import Replayed, Statement, give_up, replay, waiting_restore
from smtpproxy.backup.restoring import Pending, Placed, bring_journals, place
from smtpproxy.cli import fail, failing
from smtpproxy.cli.journals import ANCHORS, read_kept_changes
from smtpproxy.cli.options import (
    ExistingFile,
    ExistingFolder,
    Options,
    Text,
    command,
    flag,
    option,
    settings_in,
)
from smtpproxy.cli.printer import Fields, Part, Result, Styled
from smtpproxy.cli.stores import using_store
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.process.control import NotRunning, Status, ask
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

T = TypeVar("T")
_Folder = Annotated[Path, click.Path(path_type=Path)]


@command("backup")
def backup(config: Path, folder: _Folder) -> Result:
    """Copy everything the relay knows to a new FOLDER, while it runs.

    That is the databases, the keys, the configuration with the files that it names, and the
    position of the journals, which you have to copy as well. All of it is verified before the
    folder gets its name.
    """
    settings = settings_in(config)
    with _failing():
        manifest, digest = take(settings, config, folder, now)
    data = {
        "folder": folder,
        "manifest_sha256": digest,
        **picked(manifest, "taken_at", "contacts", "suppressions"),
        "octets": sum(kept.size for kept in manifest.files),
        "files": [kept.name for kept in manifest.files],
        "keys": manifest.keys,
        "change": manifest.changes.n,
        "anchor": manifest.anchor,
    }
    fields = Fields(
        [
            ("contacts", f"{manifest.contacts:,}"),
            ("suppressions", f"{manifest.suppressions:,}"),
            ("files", f"{len(manifest.files)}, {data['octets']:,} octets"),
            ("journal", f"up to change {manifest.changes.n}"),
            ("manifest", f"SHA-256 {digest}"),
        ]
    )
    return Result(data, [Styled(f"{folder}: complete and verified", "green"), fields])


class RestoreOptions(Options, frozen=True):
    """Where the journals since the backup are, or who says that they are lost."""

    journals: ExistingFolder | None = option(
        "A copy of the journals: of state_dir, or of its folder audit.", metavar="DIR"
    )
    journals_whole: bool = flag(
        "Confirm that nothing came after the end of this copy of the journals."
    )
    journals_lost: bool = flag(
        "Confirm that whatever came after the backup is lost: marketing resumes."
    )
    by: Text | None = option("Who confirms it.", metavar="NAME")
    reason: Text | None = option("Why.")


@command("restore")
def restore(
    config: Path,
    backup: _Folder | None,
    options: RestoreOptions,
    kept: ExistingFile | None = ANCHORS,
) -> Result:
    """Restore a BACKUP where nothing exists yet, and replay the changes made after it.

    Nobody who unsubscribed, objected or was erased since the backup is mailed again: the journal
    of changes in state_dir, or in --journals, has them. Until all of it is replayed, or somebody
    confirms that it is lost, all marketing is deferred, and this command exits with 1. A copy of
    the journals may end too early: marketing stays deferred until somebody confirms that it is
    complete.
    Without BACKUP, continue a restore that is waiting.
    """
    settings = settings_in(config)
    if options.journals_lost:
        return _lost(settings, backup, options)
    whole = _word(options, "--journals-whole") if options.journals_whole else None
    if whole is None and (options.by is not None or options.reason is not None):
        raise click.UsageError("--by and --reason belong to --journals-whole or --journals-lost")
    ends = read_kept_changes(kept)
    placed = None
    if backup is not None:
        placed = _place(settings, config, backup, options.journals)
    journals = own_journals(settings)
    if options.journals is not None:
        with _failing():
            journals = bring_journals(settings, options.journals)
    done = _with_waiting(
        settings,
        lambda store, waiting: replay(
            settings, store, waiting, journals, now, kept=ends, whole=whole
        ),
    )
    data = {
        "restored": None if placed is None else _placed_object(placed),
        "taken_at": done.waiting.taken_at,
        "complete": not done.gaps,
        "missing": done.gaps,
        **picked(done, "notes", "changes", "until", "suppressed"),
        **picked(done, "lifted", "withdrawn", "refused", "erased"),
        "imports_undone": done.undone,
        **picked(done, "paused", "mailed"),
    }
    return Result(data, [*_placed_text(placed), *_text(done)], 1 if done.gaps else 0)


def _place(settings: Settings, config: Path, backup: Path, journals: Path | None) -> Placed:
    try:
        ask(settings.server.state_dir, Status(), timeout=10.0)
    except (NotRunning, OSError) as error:
        if isinstance(error, TimeoutError):
            fail("the relay is running but does not answer: stop it first")
    else:
        fail(f"a relay is running with {settings.server.state_dir}: stop it first")

    with _failing():
        return place(settings, config, backup, now, journals)


def _lost(settings: Settings, backup: Path | None, options: RestoreOptions) -> Result:
    if backup is not None or options.journals is not None:
        raise click.UsageError(
            "--journals-lost comes after a restore, without BACKUP and --journals"
        )
    if options.journals_whole:
        raise click.UsageError("--journals-lost and --journals-whole contradict each other")
    word = _word(options, "--journals-lost")

    async def act(store: Store, waiting: Pending) -> Pending:
        await give_up(settings, store, waiting, word, now)
        return waiting

    waiting = _with_waiting(settings, act)
    text = (
        f"marketing resumes; {word.by} confirmed that the changes after"
        f" {written_time(waiting.taken_at)} are lost, which is on record in the audit log"
    )
    data = {"lost": True, "taken_at": waiting.taken_at, "by": word.by, "reason": word.reason}
    return Result(data, [text])


def _word(options: RestoreOptions, flag: str) -> Statement:
    if options.by is None or options.reason is None:
        raise click.UsageError(f"{flag} needs --by NAME and --reason TEXT: they are recorded")
    return Statement(options.by, options.reason)


def _with_waiting(settings: Settings, act: Callable[[Store, Pending], Awaitable[T]]) -> T:
    """Do something with the waiting restore; end the command if there is none."""

    async def use(store: Store) -> T:
        waiting = await waiting_restore(store)
        if waiting is None:
            raise BackupFault("no restore is waiting for its journals: marketing is not held back")
        return await act(store, waiting)

    with _failing():
        return using_store(settings, use)


@contextmanager
def _failing() -> Iterator[None]:
    try:
        with failing(BackupFault):
            yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}; fix this, then run the same command again")


def _placed_object(placed: Placed) -> dict[str, object]:
    manifest: Manifest = placed.manifest
    return {
        **picked(placed, "files", "left", "same_configuration"),
        **picked(manifest, "contacts", "suppressions"),
    }


def _placed_text(placed: Placed | None) -> Iterator[Part]:
    if placed is None:
        return
    contacts = counted(placed.manifest.contacts, "contact")
    suppressions = counted(placed.manifest.suppressions, "suppression")
    at = written_time(placed.manifest.taken_at)
    yield f"restored, as of {at}: {contacts}, {suppressions}"
    for left in placed.left:
        yield Styled(f"warning: {left}", "yellow")
    if not placed.same_configuration:
        yield Styled(
            "warning: the configuration differs from the one in the backup, configuration.toml",
            "yellow",
        )


def _text(done: Replayed) -> Iterator[Part]:
    for note in done.notes:
        yield Styled(f"warning: {note}", "yellow")
    yield Fields(
        [
            ("changes read", f"{done.changes:,}"),
            ("up to", "–" if done.until is None else written_time(done.until)),
            ("suppressed again", f"{done.suppressed:,}"),
            ("lifted again", f"{done.lifted:,}"),
            ("withdrawn again", f"{done.withdrawn:,}"),
            ("restricted or less mail", f"{done.refused:,}"),
            ("erased again", f"{done.erased:,}"),
            ("imports undone", f"{done.undone:,}"),
            ("streams paused", f"{done.paused:,}"),
            ("mailings counted", f"{done.mailed:,}"),
        ]
    )
    if not done.gaps:
        yield Styled("marketing resumes: every change after the backup has been replayed", "green")
        return
    for gap in done.gaps:
        yield Styled(f"missing: {gap}", "red")
    yield (
        "Marketing stays deferred (restore_pending). Give the journals: smtpproxy restore"
        " --journals DIR; or confirm that they are lost: smtpproxy restore --journals-lost"
        " --by NAME --reason TEXT"
    )
