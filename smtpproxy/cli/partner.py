"""`smtpproxy partner`, and `suppress export` and `import` with --partner: shared suppressions."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import click

from smtpproxy.cli import fail, failing, unknown
from smtpproxy.cli.options import ExistingFile, FileOrStdin, argument, command, option
from smtpproxy.cli.outlook import outlook_object, outlook_text
from smtpproxy.cli.printer import Aside, Csv, Part, Result
from smtpproxy.cli.stores import AddressFile, known_addresses, read_store, using_store
from smtpproxy.clock import now
from smtpproxy.mail.address import readings
from smtpproxy.policy.rulebook import WIDENED_ORIGINS
from smtpproxy.policy.rules.deferrals import SNAPSHOT_AHEAD
from smtpproxy.scrub.outlook import Outlook
from smtpproxy.settings import PartnerSettings, Settings
from smtpproxy.store.exchange.snapshot import (
    SnapshotFault,
    SnapshotHead,
    SnapshotWriter,
    read_snapshot,
)
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import create_partner_key, load_partner_key
from smtpproxy.store.keys import Coverage, PartnerSnapshot, SnapshotRow, SuppressionKey
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

_BATCH = 5_000
_FOUND = ("address", "scope", "origin", "since")


@click.group("partner")
def partner() -> None:
    """Exchange suppressions with another sender; neither side shows an address."""


@command("key", partner)
def key(settings: Settings, name: str) -> Result:
    """Make the key to share with partner NAME, in its key_file; an existing key stays.

    Copy the file to the other side over a channel that nobody else can read. Both sides must
    see the same fingerprint.
    """
    path = partner_of(settings, name).key_file
    try:
        made, shared = True, create_partner_key(path, settings.server.state_dir)
    except FileExistsError:
        made, shared = False, load_partner_key(path)
    except OSError as error:
        fail(f"{path}: the key cannot be made ({error.strerror})")
    fingerprint = shared.fingerprint
    return Result(
        {"partner": name, "key_file": path, "fingerprint": fingerprint, "made": made},
        [f"{path}: {'made' if made else 'already there'}, {fingerprint}"],
    )


@command("cover", partner)
def cover(
    settings: Settings,
    addresses: FileOrStdin | None = option(
        "Look up these addresses too, one per line (- is standard input).",
        name="--from",
        metavar="FILE",
    ),
) -> Result:
    """Make the hashes for partners of suppressions that are older than the partnership.

    A suppression does not hold its address, so this works only if a contact or FILE has it.
    Shows how many suppressions can be shared with each partner. Exits with 1 when a line of FILE
    cannot be read.
    """
    listed = AddressFile(addresses)

    async def work(store: Store) -> dict[str, Coverage]:
        await store.forget_partners()
        async for some in known_addresses(store, listed):
            await store.cover(some)
        names = [partner.name for partner in settings.store.partners]
        return {name: await store.coverage(name) for name in names}

    covered = using_store(settings, work)
    return Result(
        covered,
        (
            f"{name}: {found.covered:,} of {found.total:,} suppressions can be shared"
            for name, found in covered.items()
        ),
        1 if listed.unreadable else 0,
    )


@command("show", partner)
def show(settings: Settings) -> Result:
    """Show each partner's key and snapshot; exits with 1 when one has no valid snapshot.

    One dated in the future is not valid.
    """
    taken = read_store(settings, Store.snapshots)
    keys = {
        partner.name: load_partner_key(partner.key_file).fingerprint
        for partner in settings.store.partners
    }

    fresh = [name for name in keys if name in taken and not _is_in_the_future(taken[name].taken_at)]

    def text() -> Iterator[Part]:
        for name, fingerprint in keys.items():
            one = taken.get(name)
            held = f"{_described(one)} by {one.sender}" if one else "no snapshot"
            if one and name not in fresh:
                held += ": dated in the future, so import a new one"
            yield f"{name}: key {fingerprint}: {held}"

    return Result(
        {name: {"key": key, "snapshot": taken.get(name)} for name, key in keys.items()},
        text(),
        0 if len(fresh) == len(keys) else 1,
    )


def _described(snapshot: PartnerSnapshot) -> str:
    return f"{counted(snapshot.count, 'suppression')} as of {written_time(snapshot.taken_at)}"


@command("screen", partner)
def screen(
    settings: Settings,
    name: str,
    addresses: FileOrStdin = argument(metavar="LIST"),
    taken: ExistingFile = option(
        "The snapshot from partner NAME.", name="--snapshot", metavar="FILE", required=True
    ),
) -> Result:
    """Show who on LIST is in the snapshot of partner NAME; needs and changes no store.

    LIST has one address per line, or is a CSV with a column address or email. Prints address,
    scope, origin and since as CSV. Exits with 1 when anybody is in the snapshot, or a line
    cannot be read.
    """
    shared = load_partner_key(partner_of(settings, name).key_file)
    snapshot: dict[bytes, list[SnapshotRow]] = {}
    with failing(SnapshotFault, f"{taken}: "), taken.open("rb") as file:
        head, snapshot_rows = read_snapshot(file, shared)
        _check_date(head)
        for row in snapshot_rows:
            snapshot.setdefault(row.keys[0], []).append(row)
    screened, found = 0, []
    listed = AddressFile(addresses)
    for batch in listed.batches():
        screened += len(batch)
        found += [
            (address, str(row.scope), str(row.origin), written_time(row.since))
            for address in batch
            for wide, exact in _keys_of(shared, address)
            for row in snapshot.get(wide, ())
            if row.keys[1] == exact or row.origin in WIDENED_ORIGINS
        ]
    data = {
        "screened": screened,
        "unreadable": listed.unreadable,
        "found": [dict(zip(_FOUND, row, strict=True)) for row in found],
    }
    people = len({row[0] for row in found})
    summary = f"{people:,} of {counted(screened, 'address', 'addresses')} in the snapshot"
    if listed.unreadable:
        lines = counted(listed.unreadable, "line")
        summary += f"; {lines} could not be read and were not compared"
    code = 1 if found or listed.unreadable else 0
    return Result(data, [Csv(_FOUND, found), Aside(summary)], code)


def partner_of(settings: Settings, name: str) -> PartnerSettings:
    """Return a partner's settings; end the command if there is none of that name."""
    for partner in settings.store.partners:
        if partner.name == name:
            return partner
    return unknown("partner", name, (partner.name for partner in settings.store.partners))


def export_snapshot(settings: Settings, name: str, output: BinaryIO) -> None:
    """Write the suppressions that can be shared with a partner; count the others on stderr."""
    key = load_partner_key(partner_of(settings, name).key_file)
    taken_at = now()

    async def gather(store: Store, writer: SnapshotWriter) -> int:
        unshared = 0
        async with aclosing(store.export_to_partner(name)) as suppressions:
            async for keys, suppression in suppressions:
                if keys is None:
                    unshared += 1
                else:
                    writer.add(keys, suppression)
        return unshared

    with closing(SnapshotWriter(key)) as writer:
        unshared = using_store(settings, lambda store: gather(store, writer), read_only=True)
        writer.write(output, partner=name, sender=settings.server.hostname, taken_at=taken_at)
        shared = writer.count
    total = shared + unshared
    click.echo(f"{shared:,} of {total:,} suppressions shared with {name}", err=True)
    if unshared:
        click.echo(
            f"{unshared:,} were stored without a hash for {name}, which needs their addresses:"
            " smtpproxy partner cover",
            err=True,
        )


def import_snapshot(settings: Settings, name: str, path: Path) -> Result:
    """Replace a partner's snapshot with this one; fail if this one is not valid."""
    key = load_partner_key(partner_of(settings, name).key_file)
    keys: set[bytes] = set()
    try:
        with click.open_file(str(path), "rb") as file:
            head, snapshot_rows = read_snapshot(cast(BinaryIO, file), key)
            _check(settings, head)
            rows = _collect_keys(snapshot_rows, keys)
            snapshot = PartnerSnapshot(
                key.fingerprint, head.sender, head.at, now(), head.count, head.digest
            )
            former = using_store(settings, lambda store: _take(store, name, snapshot, rows))
    except SnapshotFault as error:
        fail(f"{path}: {error}; the previous snapshot still counts")
    text = f"{name}: {_described(snapshot)}"
    if former:
        text += f", in place of {former.count:,}"
    outlook = Outlook(settings, now())
    read_store(settings, lambda store: _look(store, key, keys, outlook))
    found = outlook.findings()
    data = {"partner": name, "snapshot": snapshot, "former": former}
    data["outlook"] = outlook_object(found, "ndjson")
    return Result(data, (text, *outlook_text(found, "ndjson")))


def _collect_keys(rows: Iterator[SnapshotRow], keys: set[bytes]) -> Iterator[SnapshotRow]:
    for row in rows:
        keys.add(row.keys[0])
        yield row


async def _look(store: Store, key: SuppressionKey, keys: set[bytes], outlook: Outlook) -> None:
    """Judge the contacts whom the snapshot may be about."""
    async with aclosing(store.contact_addresses()) as known:
        async for some in known:
            about = [one for one in some if any(wide in keys for wide, _ in _keys_of(key, one))]
            await outlook.add(store, dict.fromkeys(about, ()))


def _keys_of(key: SuppressionKey, address: str) -> Iterator[tuple[bytes, bytes]]:
    for name in (address, *readings(address)):
        yield from key.counting(name)


def _check(settings: Settings, head: SnapshotHead) -> None:
    if head.sender == settings.server.hostname:
        raise SnapshotFault(f"taken by this side itself ({head.sender})")
    _check_date(head)


def _check_date(head: SnapshotHead) -> None:
    if _is_in_the_future(head.at):
        raise SnapshotFault(
            f"taken in the future ({written_time(head.at)}): the clock of one side is wrong"
        )


def _is_in_the_future(moment: datetime) -> bool:
    return moment > now() + SNAPSHOT_AHEAD


async def _take(
    store: Store, name: str, snapshot: PartnerSnapshot, rows: Iterator[SnapshotRow]
) -> PartnerSnapshot | None:
    former = (await store.snapshots()).get(name)
    after = former is not None and former.taken_at > snapshot.taken_at
    if former is not None and after and not _is_in_the_future(former.taken_at):
        raise SnapshotFault(
            f"taken on {written_time(snapshot.taken_at)}, before the one that counts"
            f" ({written_time(former.taken_at)})"
        )
    await store.take_snapshot(name, snapshot, _batches(rows))
    return former


async def _batches(rows: Iterator[SnapshotRow]) -> AsyncGenerator[Sequence[SnapshotRow], None]:
    while batch := list(islice(rows, _BATCH)):
        yield batch
