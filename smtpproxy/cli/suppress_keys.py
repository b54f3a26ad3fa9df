"""`smtpproxy suppress key`, `rekey` and `move`: the key of suppressions, and renamed scopes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO

import click

from smtpproxy.cli import fail, unknown
from smtpproxy.cli.link_keys import holdings, relay_lines
from smtpproxy.cli.options import (
    YES,
    FileOrStdin,
    Value,
    argument,
    ask_first,
    command,
    flag,
    option,
)
from smtpproxy.cli.printer import Part, Result, json_bytes
from smtpproxy.cli.stores import AddressFile, Scope, known_addresses, read_store, using_store
from smtpproxy.clock import now
from smtpproxy.disk import exists, is_dir
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered_name, recorded
from smtpproxy.settings import Settings
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.exchange.files import STDIN
from smtpproxy.store.exchange.lines import no_rows
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import FILE_NAME, key_place, load_keys, replacing
from smtpproxy.store.keys import KeyRing, is_key_text
from smtpproxy.store.records import KeyStatus
from smtpproxy.store.register import Relay
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted


def _address_or_file(value: str) -> Path | str:
    path = Path(value)
    with suppress(OSError):  # too long for the name of a file
        if path == STDIN or (exists(path) and not is_dir(path)):
            return path
    return value


@command("key")
def key(
    settings: Settings,
    output: BinaryIO,
    as_json: bool,
    address_or_file: Annotated[Path | str, Value("ADDRESS|FILE", _address_or_file)] = argument(
        metavar="ADDRESS|FILE"
    ),
) -> int:
    """Print the key text of an address, or of each line of a file (- is standard input).

    Each line of a file becomes KEY,ADDRESS. While the key is being replaced there are two
    lines per address, the newest key first. Exits with 1 when a line is not an address.
    """
    if not is_postgresql(settings.store) and not exists(store_path(settings.store)):
        fail("there is no key yet: smtpproxy serve, or an import, makes it with the database")
    ring = load_keys(settings.server.state_dir)
    if isinstance(address_or_file, Path):
        with click.open_file(str(address_or_file), "rb") as lines:
            return _write_keys(ring, address_or_file, lines, output, as_json)
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
    name = address if is_key_text(address) else recorded(address, entered_name)
    return [key.text(pair) for key, pair in ring.places(name)]


def _write_keys(
    ring: KeyRing, path: Path, lines: Iterable[bytes], output: BinaryIO, as_json: bool
) -> int:
    has_rows, wrong = False, 0
    for number, line in enumerate(lines, 1):
        address = line.strip(b" \t\r\n\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if not address:
            continue
        has_rows = True
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
    if not has_rows:
        fail(f"{path}: {no_rows(None)}")
    return 1 if wrong else 0


def _line(address: str, texts: Sequence[str]) -> bytes:
    return json_bytes({"address": address, "keys": texts}, indent=None) + b"\n"


@command("rekey")
def rekey(
    settings: Settings,
    addresses: FileOrStdin | None = option(
        "Also move the rows of these addresses, one per line (- is standard input).",
        name="--from",
        metavar="FILE",
    ),
    status: bool = flag("Only show how much is stored under each key."),
    force: bool = flag("Begin even if a relay lacks the new key: it will answer 451."),
    finish: bool = flag("Retire the old key if nothing is stored under it."),
    yes: bool = YES,
) -> Result:
    """Replace the secret key of the suppressions.

    Makes a new key, and moves the rows of every contact's address to it. If several relays share
    the store, the first run only makes the key: copy the key file to each relay, and run the
    command again once --status shows it everywhere. Meanwhile both keys are valid, so nobody is
    mailed by mistake, and the relay keeps running. Addresses are not stored: any other row moves
    when its address is given with --from, looked up by `suppress show`, or suppressed again.
    `--finish` retires the old key if no row is left under it, otherwise exits with 1, as does a
    line of FILE that cannot be read. Back up suppression.key before and after.
    """
    if status:
        if finish or addresses or force:
            raise click.UsageError("--status takes no other options")
        keys, relays = using_store(settings, _status, read_only=True)
        data = {"keys": keys, "relays": holdings(relays, FILE_NAME)}
        return Result(data, (*_key_lines(keys), *relay_lines(relays, FILE_NAME)))

    if finish:
        ask_first(lambda: _BEFORE_FINISHING, yes=yes)
    listed = AddressFile(addresses)

    async def work(store: Store) -> tuple[int, bool, Sequence[KeyStatus]]:
        with replacing(settings.server.state_dir):
            if not finish:
                await store.start_rekey(at=now(), force=force)
            moved = await _move(store, listed)
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
    return Result(done, text(), 1 if listed.unreadable or (finish and not finished) else 0)


_BEFORE_FINISHING = (
    "Exports made under the old key can then no longer be imported, and unsubscribe links of long"
    " addresses no longer work. Retire it for good?"
)


async def _status(store: Store) -> tuple[Sequence[KeyStatus], Sequence[Relay]]:
    return await store.keys(), await store.relays()


def _left_in(state_dir: Path, newest: int) -> Iterator[Part]:
    left = [version for version in load_keys(state_dir).versions if version < newest]
    if left:
        place = key_place(state_dir, FILE_NAME)
        numbers = ", ".join(map(str, left))
        yield f"{place.path} is read-only ({place.why}): remove key {numbers} at its source"


async def _move(store: Store, listed: AddressFile) -> int:
    moved = 0
    if len(await store.keys()) > 1:
        async for some in known_addresses(store, listed):
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
            f"{rows} under an old key: their addresses are not stored, and no contact has them."
            " Give the addresses with --from FILE, or keep the old key"
        )
    elif len(keys) > 1:
        yield "nothing remains under an old key: smtpproxy suppress rekey --finish retires it"


@command("move")
def move(
    settings: Settings,
    old: Scope,
    new: Scope,
    dry_run: bool = flag("Show how many would be moved; change nothing."),
    yes: bool = YES,
) -> Result:
    """Move suppressions, and wishes for less mail, to the new name of a brand or purpose.

    OLD is a scope such as brand:NAME or purpose:NAME that the configuration no longer has; check,
    doctor and serve report it. NEW is one that it has, of the same kind, or marketing. Origin,
    time and note stay; if two become one, the later one stays. Consents are not moved. With NEW
    marketing, wishes about a brand apply to every brand; wishes about a purpose stay.
    """
    kind = old.partition(":")[0]
    if settings.scopes.knows(old):
        fail(f"{old} is in use: if moved, its suppressions would no longer stop its mail", 2)
    if not settings.scopes.knows(new):
        what, _, name = new.partition(":")
        known = settings.scopes.brands if what == "brand" else settings.scopes.purposes
        unknown(what, name, sorted(known))
    if new not in (f"{kind}:{new.partition(':')[2]}", "marketing"):
        fail(f"{new} is narrower than {old}, or of another kind; give {kind}:NAME or marketing", 2)

    def question() -> str | None:
        found = read_store(settings, lambda store: _would_be_moved(store, old, new))
        return (
            f"{_named(*found)} will be moved from {old} to {new}, and can then no longer be told"
            " from those already there. Move them?"
            if any(found)
            else None
        )

    ask_first(question, yes=yes or dry_run)
    if dry_run:
        moved, wishes = read_store(settings, lambda store: _would_be_moved(store, old, new))
    else:
        moved, wishes = using_store(settings, lambda store: _moved(store, old, new))
    done = "would be moved" if dry_run else "moved"
    what = _named(moved, wishes)
    data = {"old": old, "new": new, "moved": moved, "wishes": wishes, "dry_run": dry_run}
    return Result(data, [f"{what} {done} from {old} to {new}"])


def _named(moved: int, wishes: int) -> str:
    what = counted(moved, "suppression")
    return f"{what} and {counted(wishes, 'wish', 'wishes')} for less mail" if wishes else what


async def _would_be_moved(store: Store, old: str, new: str) -> tuple[int, int]:
    suppressions, wishes = await store.named_scopes(), await store.named_wishes()
    moved = sum(
        n
        for (brand, purpose), n in wishes.items()
        if old == f"brand:{brand}" or (old == f"purpose:{purpose}" and new != "marketing")
    )
    return suppressions.get(old, 0), moved


async def _moved(store: Store, old: str, new: str) -> tuple[int, int]:
    return await store.move_scope(old, new), await store.move_wishes(old, new)
