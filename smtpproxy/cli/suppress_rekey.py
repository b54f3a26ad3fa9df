"""`smtpproxy suppress rekey`: another key for the suppressions, without a moment's gap."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import click

from smtpproxy.cli.address_list import AddressFile
from smtpproxy.cli.common import config_option
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import now, using_store
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import KeyStatus, Store
from smtpproxy.terminal import counted


@click.command("rekey")
@click.option(
    "--from",
    "addresses",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Move what is stored of these addresses too, one a line (- is standard input).",
)
@click.option("--status", is_flag=True, help="Only say what is stored under which key.")
@click.option("--finish", is_flag=True, help="Retire the old key, if nothing is under it any more.")
@config_option
@json_option
def rekey(
    settings: Settings, addresses: Path | None, status: bool, finish: bool, as_json: bool
) -> int:
    """Replace the secret key of the suppressions.

    Makes a new key, and moves to it what is stored of every contact's address. Old and new
    key hold meanwhile, so nobody is mailed for it, and the relay goes on. Addresses are not
    stored: what is left moves when its address is given with --from, comes up in `suppress
    show`, or is suppressed again. `--finish` retires the old key when nothing is left, and
    exits with 1 when something is. Back up suppression.key before and after.
    """
    if status and (finish or addresses):
        raise click.UsageError("--status goes alone")
    if status:
        keys = using_store(settings, lambda store: store.keys(), read_only=True)
        _tell(keys, as_json=as_json)
        return 0

    async def work(store: Store) -> tuple[int, bool, Sequence[KeyStatus]]:
        if not finish:
            await store.start_rekey(at=now())
        moved = await _move(store, addresses)
        finished = finish and await store.finish_rekey(at=now())
        return moved, finished, await store.keys()

    moved, finished, keys = using_store(settings, work)
    if as_json:
        print_json({"moved": moved, "finished": finished, "keys": keys})
    else:
        click.echo(f"{counted(moved, 'row')} moved to key {keys[-1].version}")
        _tell(keys)
    if not finish:
        return 0
    if finished and not as_json:
        click.echo("finished: only the newest key is left; back up suppression.key now")
    return 0 if finished else 1


async def _move(store: Store, path: Path | None) -> int:
    moved = 0
    if len(await store.keys()) < 2:
        return moved
    async with aclosing(store.contact_addresses()) as known:
        async for some in known:
            moved += await store.rekey(some)
    for some in AddressFile(path).batches() if path is not None else ():
        moved += await store.rekey(some)
    return moved


def _tell(keys: Sequence[KeyStatus], *, as_json: bool = False) -> None:
    if as_json:
        print_json({"keys": keys})
        return
    for key in keys:
        since = written_time(key.since) if key.since else "the beginning"
        click.echo(
            f"key {key.version} ({key.fingerprint}), since {since}: "
            f"{counted(key.suppressions, 'suppression')}, {key.lifted:,} lifted"
        )
    left = sum(key.suppressions + key.lifted for key in keys[:-1])
    if left:
        rows = counted(left, "row remains", "rows remain")
        click.echo(
            f"{rows} under an old key: no address is stored, and no contact has one."
            " Give addresses with --from FILE, or keep the old key"
        )
    elif len(keys) > 1:
        click.echo("nothing remains under an old key: smtpproxy suppress rekey --finish retires it")
