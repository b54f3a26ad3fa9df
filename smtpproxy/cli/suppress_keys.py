"""`smtpproxy suppress key` and `rekey`: what represents an address, and replacing its key."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import config_option, file_type, flag, option, options, output_option
from smtpproxy.cli.printer import Part, Result, json_bytes, json_option, shows_result
from smtpproxy.cli.relays import holdings, relay_lines
from smtpproxy.cli.stores import AddressFile, using_store
from smtpproxy.clock import now
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered_name
from smtpproxy.settings import Settings
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import FILE_NAME, load_keys
from smtpproxy.store.key_places import key_place
from smtpproxy.store.keys import KeyRing, is_key_text
from smtpproxy.store.protocols import KeyStatus, Store
from smtpproxy.store.register import Relay
from smtpproxy.terminal import counted


@click.command("key")
@click.argument("address_or_file", metavar="ADDRESS|FILE")
@output_option
@json_option
@config_option
def key(settings: Settings, address_or_file: str, output: BinaryIO, as_json: bool) -> int:
    """Print the key text of an address, or of each line of a file (- is standard input).

    Of a file each line becomes KEY,ADDRESS. While the key is being replaced there are two
    lines for each address, the newest key first. Exits with 1 when a line is not an address.
    """
    if not is_postgresql(settings.store) and not store_path(settings.store).exists():
        fail("there is no key yet: smtpproxy serve makes it with the database, or an import")
    ring = load_keys(settings.server.state_dir)
    path = Path(address_or_file)
    if address_or_file == "-":
        return _write_keys(ring, sys.stdin.buffer, output, as_json)
    if path.is_file():
        with path.open("rb") as lines:
            return _write_keys(ring, lines, output, as_json)
    try:
        texts = _key_texts(ring, address_or_file)
    except ValueError as error:
        raise click.BadParameter(
            f"{address_or_file!r} is neither a file nor an address: {error}"
        ) from None
    if as_json:
        output.write(_line(address_or_file, texts))
    else:
        output.writelines(f"{text}\n".encode() for text in texts)
    return 0


def _key_texts(ring: KeyRing, address: str) -> list[str]:
    """Return the key text under each live key. Raises AddressError, a ValueError."""
    name = address if is_key_text(address) else entered_name(address)
    return [key.text(pair) for key, pair in ring.places(name)]


def _write_keys(ring: KeyRing, lines: Iterable[bytes], output: BinaryIO, as_json: bool) -> int:
    wrong = 0
    for number, line in enumerate(lines, 1):
        address = line.strip(b" \t\r\n\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if not address:
            continue
        try:
            texts = _key_texts(ring, address)
        except (AddressError, ValueError) as error:
            wrong += 1
            click.echo(f"line {number}: {error}", err=True)
            continue
        if as_json:
            output.write(_line(address, texts))
        else:
            written = os.fsencode(address)
            output.writelines(text.encode() + b"," + written + b"\n" for text in texts)
    return 1 if wrong else 0


def _line(address: str, texts: Sequence[str]) -> bytes:
    return json_bytes({"address": address, "keys": texts}, indent=None) + b"\n"


@dataclass(frozen=True, slots=True)
class RekeyOptions:
    """What to move, or to look at."""

    addresses: Path | None = option(
        "Move the rows of these addresses too, one per line (- is standard input).",
        file_type(stdin=True), name="--from", metavar="FILE",
    )  # fmt: skip
    status: bool = flag("Only say how much is stored under each key.")
    force: bool = flag("Begin although a relay does not have the new key: it answers 451.")
    finish: bool = flag("Retire the old key, once nothing is stored under it.")


@click.command("rekey")
@options(RekeyOptions)
@config_option
@shows_result
def rekey(settings: Settings, options: RekeyOptions) -> Result:
    """Replace the secret key of the suppressions.

    Makes a new key, and moves to it what is stored of every contact's address. Where several
    relays share the store, the new key is only made at first: copy the key file to each, and
    run the command again once --status shows it everywhere. Old and new key hold meanwhile, so
    nobody is mailed for it, and the relay goes on. Addresses are not stored: what is left moves
    when its address is given with --from, comes up in `suppress show`, or is suppressed again.
    `--finish` retires the old key when nothing is left, and exits with 1 when something is. Back
    up suppression.key before and after.
    """
    finish = options.finish
    if options.status:
        if finish or options.addresses or options.force:
            raise click.UsageError("--status takes no other options")
        keys, relays = using_store(settings, _status, read_only=True)
        data = {"keys": keys, "relays": holdings(relays, FILE_NAME)}
        return Result(data, (*_key_lines(keys), *relay_lines(relays, FILE_NAME)))

    async def work(store: Store) -> tuple[int, bool, Sequence[KeyStatus]]:
        if not finish:
            await store.start_rekey(at=now(), force=options.force)
        moved = await _move(store, options.addresses)
        finished = finish and await store.finish_rekey(at=now())
        return moved, finished, await store.keys()

    moved, finished, keys = using_store(settings, work)

    def text() -> Iterator[Part]:
        yield f"{counted(moved, 'row')} moved to key {keys[-1].version}"
        yield from _key_lines(keys)
        if finished:
            yield "finished: only the newest key is left; back up suppression.key now"
            yield from _left_in(settings.server.state_dir, keys[-1].version)

    done = {"moved": moved, "finished": finished, "keys": keys}
    return Result(done, text(), 1 if finish and not finished else 0)


async def _status(store: Store) -> tuple[Sequence[KeyStatus], Sequence[Relay]]:
    return await store.keys(), await store.relays()


def _left_in(state_dir: Path, newest: int) -> Iterator[Part]:
    left = [version for version in load_keys(state_dir).versions if version < newest]
    if left:
        place = key_place(state_dir, FILE_NAME)
        numbers = ", ".join(map(str, left))
        yield f"{place.path} is read only ({place.why}): take key {numbers} out where it comes from"


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


def _key_lines(keys: Sequence[KeyStatus]) -> Iterator[Part]:
    for key in keys:
        since = written_time(key.since) if key.since else "the beginning"
        yield (
            f"key {key.version} ({key.fingerprint}), since {since}: "
            f"{counted(key.suppressions, 'suppression')}, {key.lifted:,} lifted"
        )
    left = sum(key.suppressions + key.lifted for key in keys[:-1])
    if left:
        rows = counted(left, "row remains", "rows remain")
        yield (
            f"{rows} under an old key: no address is stored, and no contact has one."
            " Give addresses with --from FILE, or keep the old key"
        )
    elif len(keys) > 1:
        yield "nothing remains under an old key: smtpproxy suppress rekey --finish retires it"
