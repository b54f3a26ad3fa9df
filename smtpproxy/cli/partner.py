"""`smtpproxy partner`: the exchange of suppressions with another sender, by keyed hashes."""

import csv
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import click

from smtpproxy.cli.address_list import AddressFile
from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import using_store
from smtpproxy.cli.suppress_partner import partner_of
from smtpproxy.mail.address import readings
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.snapshot import SnapshotFault, read_snapshot
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import create_partner_key, load_partner_key
from smtpproxy.store.keys import Coverage, SnapshotRow
from smtpproxy.store.merge import WIDENED_ORIGINS
from smtpproxy.store.protocols import Store
from smtpproxy.terminal import counted


@click.group(short_help="Exchange suppressions with another sender, as hashes.")
def command() -> None:
    """Exchange suppressions with another sender; neither side shows an address."""


@command.command("key")
@click.argument("name")
@config_option
@json_option
def key(settings: Settings, name: str, as_json: bool) -> None:
    """Make the key to share with partner NAME, in its key_file; one that is there stays.

    Copy the file to the other side over a way that nobody else can read. Both sides must
    see the same fingerprint.
    """
    path = partner_of(settings, name).key_file
    try:
        made, shared = True, create_partner_key(path)
    except FileExistsError:
        made, shared = False, load_partner_key(path)
    except OSError as error:
        fail(f"{path}: the key cannot be made ({error.strerror})")
    if as_json:
        facts = {"partner": name, "key_file": path, "fingerprint": shared.fingerprint}
        print_json({**facts, "made": made})
    else:
        click.echo(f"{path}: {'made' if made else 'there already'}, {shared.fingerprint}")


@command.command("cover")
@click.option(
    "--from",
    "addresses",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Look these addresses up too, one a line (- is standard input).",
)
@config_option
@json_option
def cover(settings: Settings, addresses: Path | None, as_json: bool) -> None:
    """Make the hashes that partners get of suppressions from before they were partners.

    A suppression does not hold its address, so this can only be done where a contact has
    it, or FILE. Says how many of how many suppressions each partner can be told.
    """
    partners = [partner.name for partner in settings.store.partners]

    async def work(store: Store) -> dict[str, Coverage]:
        await store.forget_partners()
        async with aclosing(store.contact_addresses()) as known:
            async for some in known:
                await store.cover(some)
        for some in AddressFile(addresses).batches() if addresses is not None else ():
            await store.cover(some)
        return {name: await store.coverage(name) for name in partners}

    covered = using_store(settings, work)
    if as_json:
        print_json(covered)
        return
    for name, found in covered.items():
        click.echo(f"{name}: {found.covered:,} of {found.total:,} suppressions can be told")


@command.command("show")
@config_option
@json_option
def show(settings: Settings, as_json: bool) -> int:
    """Show each partner's key and snapshot; exit 1 when one has no snapshot that counts."""
    taken = using_store(settings, lambda store: store.snapshots(), read_only=True, or_empty=True)
    found = {
        partner.name: (load_partner_key(partner.key_file).fingerprint, taken.get(partner.name))
        for partner in settings.store.partners
    }
    if as_json:
        print_json({name: {"key": key, "snapshot": one} for name, (key, one) in found.items()})
    else:
        for name, (fingerprint, one) in found.items():
            told = (
                f"{counted(one.count, 'suppression')} as of {written_time(one.taken_at)}"
                f" by {one.sender}"
                if one
                else "no snapshot"
            )
            click.echo(f"{name}: key {fingerprint}: {told}")
    return 0 if all(one for _, one in found.values()) else 1


@command.command("screen")
@click.argument("name")
@click.argument(
    "addresses",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    metavar="LIST",
)
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The snapshot that partner NAME gave.",
)
@config_option
@json_option
def screen(settings: Settings, name: str, addresses: Path, snapshot: Path, as_json: bool) -> int:
    """Say who of LIST is in the snapshot of partner NAME; no store is needed or changed.

    LIST is one address a line, or CSV with a column address or email. Prints address, scope,
    origin and since as CSV; exits with 1 when somebody is in it, or a line cannot be read.
    """
    shared = load_partner_key(partner_of(settings, name).key_file)
    told: dict[bytes, list[SnapshotRow]] = {}
    try:
        with snapshot.open("rb") as file:
            for row in read_snapshot(file, shared)[1]:
                told.setdefault(row.keys[0], []).append(row)
    except SnapshotFault as error:
        fail(f"{snapshot}: {error}")
    screened, found = 0, []
    listed = AddressFile(addresses)
    for batch in listed.batches():
        screened += len(batch)
        for address in batch:
            found += [
                (address, row)
                for name in (address, *readings(address))
                for wide, exact in shared.counting(name)
                for row in told.get(wide, ())
                if row.keys[1] == exact or row.origin in WIDENED_ORIGINS
            ]
    _print_found(found, screened, listed.unreadable, as_json=as_json)
    return 1 if found or listed.unreadable or not screened else 0


def _print_found(
    found: Sequence[tuple[str, SnapshotRow]], screened: int, unreadable: int, *, as_json: bool
) -> None:
    lines = [
        {
            "address": a,
            "scope": row.scope,
            "origin": str(row.origin),
            "since": written_time(row.since),
        }
        for a, row in found
    ]
    if as_json:
        print_json({"screened": screened, "unreadable": unreadable, "found": lines})
        return
    writer = csv.DictWriter(
        sys.stdout, ["address", "scope", "origin", "since"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    people = len({address for address, _ in found})
    told = f"{people:,} of {counted(screened, 'address', 'addresses')} in the snapshot"
    if unreadable:
        told += f"; nothing is known of {counted(unreadable, 'line')} that could not be read"
    click.echo(told, err=True)
