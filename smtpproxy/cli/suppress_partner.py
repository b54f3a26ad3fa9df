"""Snapshots of suppressions: what `suppress export` and `import` do with `--partner`."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from smtpproxy.cli.common import Failure, fail
from smtpproxy.cli.printer import print_json
from smtpproxy.cli.stores import now, using_store
from smtpproxy.settings import PartnerSettings, Settings
from smtpproxy.store.exchange.snapshot import (
    SnapshotFault,
    SnapshotHead,
    SnapshotWriter,
    read_snapshot,
)
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import load_partner_key
from smtpproxy.store.keys import PartnerSnapshot, SnapshotRow
from smtpproxy.store.protocols import Store
from smtpproxy.terminal import counted

_BATCH = 5_000
_AHEAD = timedelta(minutes=5)  # a partner's clock may be so much ahead of ours


def partner_option(help: str) -> Callable[..., Any]:
    return click.option("--partner", metavar="NAME", help=help)


def partner_of(settings: Settings, name: str) -> PartnerSettings:
    for partner in settings.store.partners:
        if partner.name == name:
            return partner
    known = ", ".join(partner.name for partner in settings.store.partners)
    there = f"there are {known}" if known else "there is no [[partner]]"
    raise Failure(f"no partner {name!r}; {there}", 2)


def export_snapshot(settings: Settings, name: str, output: BinaryIO) -> None:
    """Write what can be told to a partner, and say on stderr what cannot."""
    key = load_partner_key(partner_of(settings, name).key_file)
    taken_at = now()

    async def gather(store: Store, writer: SnapshotWriter) -> int:
        untold = 0
        async with aclosing(store.export_to_partner(name)) as suppressions:
            async for keys, suppression in suppressions:
                if keys is None:
                    untold += 1
                else:
                    writer.add(keys, suppression)
        return untold

    with SnapshotWriter(key) as writer:
        untold = using_store(settings, lambda store: gather(store, writer), read_only=True)
        writer.write(output, partner=name, sender=settings.server.hostname, taken_at=taken_at)
        told = writer.count
    click.echo(f"{told:,} of {told + untold:,} suppressions told to {name}", err=True)
    if untold:
        click.echo(
            f"{untold:,} were stored without a hash for {name}, and only their addresses could"
            " make one: smtpproxy partner cover",
            err=True,
        )


def import_snapshot(settings: Settings, name: str, path: Path, *, as_json: bool) -> int:
    """Take a partner's snapshot in, in place of the former one; exit code 1 when it cannot be."""
    key = load_partner_key(partner_of(settings, name).key_file)
    try:
        with click.open_file(str(path), "rb") as file:
            head, rows = read_snapshot(cast(BinaryIO, file), key)
            _check(settings, head)
            snapshot = PartnerSnapshot(
                key.fingerprint, head.sender, head.taken_at, now(), head.count, head.digest
            )
            former = using_store(settings, lambda store: _take(store, name, snapshot, rows))
    except SnapshotFault as error:
        fail(f"{path}: {error}; the former snapshot stays")
    if as_json:
        print_json({"partner": name, "snapshot": snapshot, "former": former})
    else:
        click.echo(
            f"{name}: {counted(head.count, 'suppression')} as of {written_time(head.taken_at)}"
            + (f", in place of {former.count:,}" if former else "")
        )
    return 0


def _check(settings: Settings, head: SnapshotHead) -> None:
    if head.sender == settings.server.hostname:
        raise SnapshotFault(f"taken by this side itself ({head.sender})")
    if head.taken_at > now() + _AHEAD:
        raise SnapshotFault(f"taken in the future ({written_time(head.taken_at)})")


async def _take(
    store: Store, name: str, snapshot: PartnerSnapshot, rows: Iterator[SnapshotRow]
) -> PartnerSnapshot | None:
    former = (await store.snapshots()).get(name)
    if former is not None and former.taken_at > snapshot.taken_at:
        raise SnapshotFault(
            f"taken on {written_time(snapshot.taken_at)}, before the one that counts"
            f" ({written_time(former.taken_at)})"
        )
    await store.take_snapshot(name, snapshot, _batches(rows))
    return former


async def _batches(rows: Iterator[SnapshotRow]) -> AsyncGenerator[Sequence[SnapshotRow], None]:
    while batch := list(islice(rows, _BATCH)):
        yield batch
