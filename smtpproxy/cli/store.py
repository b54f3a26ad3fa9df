"""`smtpproxy store` and `migrate`: move a store to another database, and update its tables."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import click
from msgspec.structs import replace

from smtpproxy.cli import fail
from smtpproxy.cli.options import YES, Value, argument, ask_first, command, several
from smtpproxy.cli.printer import Column, Part, Result, Styled, Table
from smtpproxy.cli.stores import open_patiently, using_store
from smtpproxy.clock import now
from smtpproxy.erasure import erase_outstanding
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.settings.places import store_url
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.closed import closed_text, without_password
from smtpproxy.store.configurations import settle_link_keys
from smtpproxy.store.move import CopyEnd, CopyResult, move
from smtpproxy.store.records import StoreInaccessible
from smtpproxy.store.register import relay_id
from smtpproxy.terminal import counted

_TIMEOUT = 30.0  # seconds that running writers get to finish


_Url = Annotated[str, Value("URL", store_url)]


@click.group("store")
def store() -> None:
    """Move the whole store to another database, or reopen one that a move closed."""


@command("copy", store)
def copy(
    settings: Settings,
    source: _Url = argument(metavar="FROM"),
    target: _Url = argument(metavar="TO"),
) -> Result:
    """Copy the store at the URL FROM to the one at the URL TO, verify the copy, and close FROM.

    One of them is sqlite:///FILE, the other postgresql://…, with the role that owns the tables;
    smtpproxy migrate must have made these, and nobody may have written to them. Relays go on
    writing to FROM meanwhile, and their changes are copied too. During the last seconds nobody can
    write: relays answer 451 if they have to, and commands fail. From then on FROM refuses
    everything, until store.url names TO. To resume an interrupted copy, run the same command; to
    give it up, smtpproxy store reopen FROM.
    """
    kinds = {is_postgresql(StoreSettings(url)) for url in (source, target)}
    if len(kinds) == 1:
        raise click.UsageError(
            "FROM and TO are of the same kind; one must be sqlite:///FILE, the other postgresql://…"
        )
    state_dir = settings.server.state_dir
    old, new = _place(source, state_dir), _place(target, state_dir)
    copied, behind = asyncio.run(_copied(settings, source, old, new))
    data = {
        "from": old.shown,
        "to": new.shown,
        "already_there": copied.already_there,
        "resumed": copied.resumed,
        "write_stop_seconds": round(copied.seconds, 3),
        "not_erased_by": list(behind),
        "tables": {
            table: {"rows": sum.rows, "checksum": str(sum)} for table, sum in copied.sums.items()
        },
    }
    return Result(data, _text(copied, old, new, behind))


async def _copied(
    settings: Settings, source: str, old: CopyEnd, new: CopyEnd
) -> tuple[CopyResult, Sequence[str]]:
    """Copy; return also the relays yet to erase people from an audit log, known only to FROM."""
    before = replace(settings, store=StoreSettings(source, _TIMEOUT))
    behind: Sequence[str] = ()

    async def erase_here() -> None:
        nonlocal behind
        rows, behind = await erase_outstanding(before, now())
        if rows:
            _report(
                f"{counted(rows, 'row')} of the audit log here erased, as requested at other relays"
            )

    text = closed_text(source, new.shown)
    copied = await move(old, new, text, settings.server.state_dir, _report, erase_here)
    await erase_here()
    return copied, behind


@command("reopen", store)
def reopen(settings: Settings, url: _Url, yes: bool = YES) -> Result:
    """Reopen the store at URL, which was copied to another; it is as it was then.

    Anything written to the other store since is not in it: use this only if nobody has used the
    copy. An incomplete copy is given up, and URL no longer records changes for it.
    """
    del settings  # like every command, only for users who may read the configuration
    place, shown = StoreSettings(url), without_password(url)
    question = f"{shown} lacks what was written to its copy, refusals too. Reopen it?"
    ask_first(lambda: question, yes=yes)
    if is_postgresql(place):
        from smtpproxy.store.move.postgres import reopen as reopen_postgres

        reopened = asyncio.run(reopen_postgres(url, _TIMEOUT))
    else:
        from smtpproxy.store.move.sqlite import reopen as reopen_sqlite

        reopened = asyncio.run(reopen_sqlite(store_path(place), _TIMEOUT))
    if reopened is None:
        fail(f"{shown}: already open; only a store that was copied is closed")
    done = "reopened" if reopened.was_closed else f"the copy to {reopened.other} is given up"
    return Result({"reopened": shown, "was_closed": reopened.was_closed}, [f"{shown}: {done}"])


def _report(text: str) -> None:
    click.echo(text, err=True)


def _place(url: str, state_dir: Path) -> CopyEnd:
    if is_postgresql(StoreSettings(url)):
        from smtpproxy.store.move import postgres, postgres_target

        return CopyEnd(
            url,
            postgres.open_source(url, _TIMEOUT),
            postgres_target.open_target(url, _TIMEOUT, relay_id(state_dir)),
        )
    from smtpproxy.store.move import sqlite, sqlite_target

    path = store_path(StoreSettings(url))
    return CopyEnd(
        url,
        sqlite.open_source(path, _TIMEOUT),
        sqlite_target.open_target(path, state_dir),
    )


def _text(copied: CopyResult, old: CopyEnd, new: CopyEnd, behind: Sequence[str]) -> list[Part]:
    rows = [(table, f"{sum.rows:,}", str(sum)) for table, sum in copied.sums.items() if sum.rows]
    done = "the copy was already complete" if copied.already_there else "copied and verified"
    stop = "" if copied.already_there else f"nobody could write for {copied.seconds:.1f} s; "
    role = ", with the relays' own role" if new.shown.startswith("postgresql") else ""
    return [
        Table([Column("table"), Column("rows", right=True), Column("checksum")], rows),
        "",
        Styled(f"{new.shown}: {done}; {old.shown} is closed", "green"),
        f"{stop}now set store.url to {new.shown}{role}",
        *(f"erased people are still in the audit log of {relay}" for relay in behind),
    ]


@command("migrate")
def migrate(
    settings: Settings,
    grant_read: tuple[str, ...] = several(
        "Let this role of PostgreSQL read the tables.", metavar="ROLE"
    ),
    grant_write: tuple[str, ...] = several(
        "Let this role read and write the tables, as relays do.", metavar="ROLE"
    ),
) -> Result:
    """Bring the tables of the store up to date; create them if there are none.

    With PostgreSQL, run it as the role that owns the tables, before the first start and before
    starting a new release: relays of the previous release keep working meanwhile and
    afterwards. With SQLite, whatever writes first does this by itself.
    """
    if is_postgresql(settings.store):
        before, after = asyncio.run(_migrate(settings, grant_read, grant_write))
        if settings.makes_tokens:
            folder = settings.server.state_dir
            using_store(settings, lambda store: settle_link_keys(store, folder, at=now()))
    elif grant_read or grant_write:
        raise click.UsageError("only PostgreSQL has roles; this store is a file")
    else:
        before, after = asyncio.run(_migrate_file(settings))
    changed = "up to date" if before == after else f"brought from version {before} to {after}"
    return Result({"before": before, "after": after}, [f"the tables of the store: {changed}"])


async def _migrate(
    settings: Settings, readers: Sequence[str], writers: Sequence[str]
) -> tuple[int, int]:
    from smtpproxy.store.postgres import target
    from smtpproxy.store.postgres.connection import Lease
    from smtpproxy.store.postgres.migrations import migrate

    lease = Lease(replace(target(settings.store), patient=True))
    try:
        return await migrate(
            lease.database, settings.server.state_dir, readers=readers, writers=writers
        )
    except StoreInaccessible as error:
        if type(error.__cause__).__name__ != "InsufficientPrivilegeError":
            raise
        raise StoreInaccessible(
            f"store.url: {error.__cause__}; run it as the role that owns the tables and may create"
            " some: GRANT CREATE ON SCHEMA public TO ROLE"
        ) from error.__cause__
    finally:
        lease.close()


async def _migrate_file(settings: Settings) -> tuple[int, int]:
    """Open the store, which updates its tables; return their version before and after."""
    from smtpproxy.store.sqlite.connection import migrations, open_reader, version_of

    before = 0
    with suppress(sqlite3.Error), closing(open_reader(store_path(settings.store))) as there:
        before = version_of(there)
    await open_patiently(settings).close()
    return before, len(migrations())
