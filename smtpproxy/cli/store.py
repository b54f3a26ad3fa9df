"""`smtpproxy store`: a store moves to another database, or is opened again."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import config_option
from smtpproxy.cli.printer import Column, Part, Result, Styled, Table, shows_result
from smtpproxy.clock import now
from smtpproxy.erasure import erase_outstanding
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.settings.places import store_url
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.closed import closed_text, without_password
from smtpproxy.store.move import CopyEnd, CopyResult, move
from smtpproxy.store.relays import relay_id
from smtpproxy.terminal import counted

_TIMEOUT = 30.0  # seconds for those who write just now


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return store_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group("store")
def store() -> None:
    """Move the whole store to another database, or open again what was closed for that."""


@store.command("copy")
@click.argument("source", metavar="FROM", callback=_url)
@click.argument("target", metavar="TO", callback=_url)
@config_option
@shows_result
def copy(settings: Settings, source: str, target: str) -> Result:
    """Copy the store at the URL FROM to the one at the URL TO, prove it, and close FROM.

    One of them is sqlite:///FILE, the other postgresql://…, with the role that owns the tables;
    smtpproxy migrate has made those, and nobody has written to them. Relays go on writing to FROM
    meanwhile; what changes is copied after. Nobody can write for the last seconds: then relays
    answer 451 where they would have to, and commands fail. From then on FROM refuses everything,
    until store.url names TO. A copy that was interrupted goes on with the same command; smtpproxy
    store reopen FROM gives it up.
    """
    kinds = {is_postgresql(StoreSettings(url)) for url in (source, target)}
    if len(kinds) == 1:
        raise click.UsageError(
            "FROM and TO are of one kind; one is sqlite:///FILE, the other postgresql://..."
        )
    state_dir = settings.server.state_dir
    old, new = _place(source, state_dir), _place(target, state_dir)
    copied, behind = asyncio.run(_copied(settings, source, old, new))
    return Result(_object(copied, old, new, behind), _text(copied, old, new, behind))


async def _copied(
    settings: Settings, source: str, old: CopyEnd, new: CopyEnd
) -> tuple[CopyResult, Sequence[str]]:
    """Copy, and return also who has yet to erase people from an audit log: only FROM knows whom."""
    before = replace(settings, store=StoreSettings(source, _TIMEOUT))
    behind: Sequence[str] = ()

    async def erase_here() -> None:
        nonlocal behind
        rows, behind = await erase_outstanding(before, now())
        if rows:
            _report(f"{counted(rows, 'row')} of the audit log here erased, as others had asked for")

    text = closed_text(source, new.shown)
    copied = await move(old, new, text, settings.server.state_dir, _report, erase_here)
    await erase_here()
    return copied, behind


@store.command("reopen")
@click.argument("url", metavar="URL", callback=_url)
@config_option
@shows_result
def reopen(settings: Settings, url: str) -> Result:
    """Reopen the store at URL, which was copied to another; it is as it was then.

    What was written to the other since is not in it: only for a copy that nobody has used. Where a
    copy was begun and is incomplete, it is given up, and URL no longer records changes.
    """
    del settings  # as the other commands, this one is for who may read the configuration
    place = StoreSettings(url)
    if is_postgresql(place):
        from smtpproxy.store.move.postgres import reopen as reopen_postgres

        reopened = asyncio.run(reopen_postgres(url, _TIMEOUT))
    else:
        from smtpproxy.store.move.sqlite import reopen as reopen_sqlite

        reopened = asyncio.run(reopen_sqlite(store_path(place), _TIMEOUT))
    shown = without_password(url)
    if reopened is None:
        fail(f"{shown}: is open; only a store that was copied is closed")
    done = "open again" if reopened.was_closed else f"the copy to {reopened.other} is given up"
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


def _object(
    copied: CopyResult, old: CopyEnd, new: CopyEnd, behind: Sequence[str]
) -> dict[str, object]:
    return {
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


def _text(copied: CopyResult, old: CopyEnd, new: CopyEnd, behind: Sequence[str]) -> list[Part]:
    rows = [(table, f"{sum.rows:,}", str(sum)) for table, sum in copied.sums.items() if sum.rows]
    done = "all of it was there already" if copied.already_there else "copied and verified"
    stop = "" if copied.already_there else f"nobody could write for {copied.seconds:.1f} s; "
    return [
        Table([Column("table"), Column("rows", right=True), Column("checksum")], rows),
        "",
        Styled(f"{new.shown}: {done}; {old.shown} is closed", "green"),
        f"{stop}now set store.url to {new.shown}",
        *(f"people who were erased are still in the audit log of {one}" for one in behind),
    ]
