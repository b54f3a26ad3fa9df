"""The store for commands, options checked against the configuration, and lists of addresses."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar, cast

import click
from msgspec import structs

from smtpproxy import import_options, recorded_consent
from smtpproxy.cli import fail, failing
from smtpproxy.cli.options import Options, Text, Value, flag, moment, option
from smtpproxy.cli.printer import Aside, print_text
from smtpproxy.clock import now
from smtpproxy.import_options import read_constant
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered_name
from smtpproxy.scrub.formats import address_place
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.exchange.layouts import Kind
from smtpproxy.store.exchange.lines import (
    ImportFault,
    Line,
    Lines,
    Rejected,
    checked_address,
    no_rows,
    read_lines,
)
from smtpproxy.store.exchange.plausible import FREE_TEXT, GRACE
from smtpproxy.store.exchange.rows import Row, first_line, read_header, read_rows, rejected_header
from smtpproxy.store.exchange.suppression_record import OWN_MOTIVES, is_motive, read_scope
from smtpproxy.store.records import NoStoreYet
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import few

T = TypeVar("T")

_TIMEOUT = 30.0  # seconds; a command may wait longer for a lock than mail may
_BATCH = 2_000


def using_store(
    settings: Settings,
    use: Callable[[Store], Awaitable[T]],
    *,
    read_only: bool = False,
    or_empty: bool = False,
) -> T:
    """Open the store, run `use` with it, close it.

    With `or_empty`, a store that does not exist yet is taken as empty, with a warning. Raises
    StoreUnavailable.
    """

    async def session() -> T:
        with contextlib.ExitStack() as stack:
            try:
                store = open_patiently(settings, read_only=read_only)
            except NoStoreYet as fault:
                if not or_empty:
                    raise
                warn(f"{fault}; nobody is known yet")
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                store = open_store(StoreSettings(f"sqlite://{folder}/empty.db"), folder)
            try:
                return await use(store)
            finally:
                await store.close()

    return asyncio.run(session())


def read_store(settings: Settings, use: Callable[[Store], Awaitable[T]]) -> T:
    """Run `use` with the store, only to look into it; one that does not exist yet is empty."""
    return using_store(settings, use, read_only=True, or_empty=True)


def open_patiently(settings: Settings, *, read_only: bool = False) -> Store:
    """Open the store for a command, which may wait. The caller closes it."""
    patient = structs.replace(settings.store, timeout=max(settings.store.timeout, _TIMEOUT))
    return open_store(patient, settings.server.state_dir, read_only=read_only)


def _fact_moment(value: str) -> datetime:
    at = moment(value)
    if at > now() + GRACE:
        raise ValueError(f"{value!r} is in the future; give the time when it happened")
    return at


FactMoment = Annotated[datetime, Value("TIME", _fact_moment)]
"""The time of a past event, at most a day ahead of this clock."""


def is_past(at: datetime | None) -> bool:
    """Whether to leave out what came after a moment: of a future one, all on record came before."""
    return at is not None and at <= now()


KEEP_NOTES_HELP = "Keep free text as a note for a year. It must not contain personal data."


class NoteOptions(Options, frozen=True):
    """Why a suppression is made."""

    note: Text | None = option("The motive, from a closed list.")
    keep_notes: bool = flag(KEEP_NOTES_HELP)

    def checked_note(self) -> str | None:
        """Return the note; end the command for free text without --keep-notes."""
        if self.note is not None:
            check_motive("--note", self.note, OWN_MOTIVES[:4], keep=self.keep_notes)
        return self.note


def check_motive(option: str, text: str, like: Sequence[str], *, keep: bool) -> None:
    """End the command for free text unless it may be kept; `like` are motives to suggest."""
    if is_motive(text):
        return
    if not keep:
        fail(
            f"{option}: {text[:40]!r} is free text, and {FREE_TEXT}; give a motive such as "
            f"{', '.join(like)}, or --keep-notes",
            2,
        )
    warn(f"{option}: free text is kept: {FREE_TEXT}")


async def with_new_address(store: Store, address: str, fault: str) -> str:
    """Return what is wrong with an address of which nothing is stored, and its person's new one."""
    moved = [f"; it was corrected to {new}: name that" for new in await store.moved_to(address)]
    return fault + "".join(moved)


async def no_contact(store: Store, address: str) -> str:
    return await with_new_address(store, address, f"there is no contact {address}")


def warn(text: str) -> None:
    print_text([Aside(f"warning: {text}")])


def warn_of_the_future(option: str, at: datetime | None, effect: str) -> None:
    """Warn of a day in the future; today's date, which means the end of today, passes."""
    if at is not None and at.date() > now().date():
        warn(f"{option}: {at:%Y-%m-%d} is in the future; {effect}")


Scope = Annotated[str, Value("SCOPE", read_scope)]


def known_scope(settings: Settings, scope: str) -> str:
    """Return a scope; for an unknown purpose or brand, warn and return `marketing`."""
    kind, _, name = scope.partition(":")
    if kind == "purpose" and name not in settings.purposes:
        wrong, known = f"no stream has the purpose {name!r}", settings.purposes
    elif kind == "brand" and name not in settings.brand_names:
        wrong, known = f"there is no brand {name!r}", settings.brand_names
    else:
        return scope
    right = f"; known: {few(sorted(known), name)}" if known else ""
    warn(f"{wrong}, so this counts for all marketing{right}")
    return "marketing"


def check_brand(settings: Settings, brand: str) -> None:
    """End the command if there is no such brand."""
    with failing(ValueError, "--brand: ", code=2):
        recorded_consent.check_brand(settings, brand)


def check_purpose(settings: Settings, purpose: str) -> None:
    """End the command if no stream has the purpose, which is often misspelt."""
    with failing(ValueError, "--purpose: ", code=2):
        recorded_consent.check_purpose(settings, purpose)


Constant = Annotated[tuple[str, str], Value("FIELD=VALUE", read_constant)]


def constants_of(
    settings: Settings, kind: Kind, given: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Return the values of `--set` by field; end the command if one is not valid."""
    with failing(ValueError, "--set ", code=2):
        return import_options.constants_of(settings, kind, given, now())


async def known_addresses(store: Store, listed: "AddressFile") -> AsyncIterator[Sequence[str]]:
    """Yield the addresses of all contacts, then those of a file, in batches."""
    async with aclosing(store.contact_addresses()) as known:
        async for some in known:
            yield some
    for some in listed.batches():
        yield some


class AddressFile:
    """Addresses and whole domains: one per line, or in a column address or email of a CSV.

    Lines that hold none are reported on stderr, counted in `unreadable` and left out. A file
    without rows ends the command.
    """

    def __init__(self, path: Path | None) -> None:
        """`path`: - is standard input; without one there are no addresses."""
        self._path = path
        self.unreadable = 0

    def batches(self) -> Iterator[Sequence[str]]:
        """Yield them in canonical form, in batches."""
        if self._path is None:
            return
        opened = click.open_file(str(self._path), "rb")
        with failing(ImportFault, f"{self._path}: "), opened as file:
            names = self._names(read_lines(cast(BinaryIO, file)))
            while batch := list(islice(names, _BATCH)):
                yield batch

    def _names(self, lines: Lines) -> Iterator[str]:
        first = first_line(lines)
        if first is None:
            raise ImportFault(no_rows(None))
        lines.give_back([first])
        items: Iterator[Line | Row | Rejected] = lines
        place: int | None = None
        top: bytes | None = None
        if not (first.content.startswith(b"#") or _is_name(first.content)):
            header = read_header(lines, known=("address", "email"))
            assert header is not None
            place, top = address_place(header), rejected_header(header)
            items = read_rows(lines, header)
        has_rows = False
        for item in items:
            is_row = isinstance(item, Rejected) or not (
                item.is_void or (place is None and item.content.startswith(b"#"))
            )
            if not is_row:
                continue
            has_rows = True
            try:
                if isinstance(item, Rejected):
                    raise ValueError(item.reason)
                text = item.cells[place or 0] if isinstance(item, Row) else _text(item.content)
                yield entered_name(checked_address(text, item))
            except (AddressError, ValueError) as error:
                self._leave_out(item.number, str(error))
        if not has_rows:
            raise ImportFault(no_rows(top))

    def _leave_out(self, number: int, reason: str) -> None:
        self.unreadable += 1
        warn(f"line {number}: {reason}")


def _is_name(content: bytes) -> bool:
    try:
        entered_name(_text(content))
    except AddressError:
        return False
    return True


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
