"""How a command opens the store, and what the commands that fill it share."""

import asyncio
import contextlib
import dataclasses
import functools
import os
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from smtpproxy.cli.common import fail, moment
from smtpproxy.cli.frame import forget_stdout
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.entry import entered, entered_name
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.exchange.plausible import FREE_TEXT, GRACE
from smtpproxy.store.exchange.suppression_record import OWN_MOTIVES, is_motive
from smtpproxy.store.exchange.times import EXAMPLE, read_time
from smtpproxy.store.protocols import NoStoreYet, Store

T = TypeVar("T")

_PATIENCE = 30.0  # seconds; a command may wait longer for a lock than a mail


def using_store(
    settings: Settings,
    use: Callable[[Store], Awaitable[T]],
    *,
    read_only: bool = False,
    or_empty: bool = False,
) -> T:
    """Open the store, run `use` with it, close it.

    With `or_empty`, one that nobody has written to yet is what the relay would begin with:
    empty, and standard error says so. Raises StoreUnavailable.
    """
    patient = dataclasses.replace(settings.store, timeout=max(settings.store.timeout, _PATIENCE))

    async def session() -> T:
        with contextlib.ExitStack() as stack:
            try:
                store = open_store(patient, settings.server.state_dir, read_only=read_only)
            except NoStoreYet as fault:
                if not or_empty:
                    raise
                warn(f"{fault}; so far nobody is known")
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                store = open_store(StoreSettings(f"sqlite://{folder}/empty.db"), folder)
            try:
                return await use(store)
            finally:
                await store.close()

    return asyncio.run(session())


def now() -> datetime:
    return datetime.now(UTC)


def canonical_address(value: str) -> str:
    """Read an argument's address, in canonical form. For `type=canonical_address`."""
    return _read(entered, value)


def address_or_domain(value: str) -> str:
    """Read an address, or a whole domain as in `@example.com`. For `type=address_or_domain`."""
    return _read(entered_name, value)


def _read(read: Callable[[str], str], value: str) -> str:
    try:
        return read(value)
    except AddressError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


def plain_text(value: str) -> str:
    """Read an option's text: something, and in UTF-8. For `type=plain_text`."""
    text = value.strip()
    if not text or any("\ud800" <= character <= "\udfff" for character in text):
        raise click.BadParameter(f"{value!r} must be text in UTF-8")
    return text


def last_moment(value: str) -> datetime:
    """Read an option's time as `moment` does, a date alone as its last moment."""
    try:
        return read_time(value, last_moment=True)
    except ValueError:
        return moment(value)


def fact_moment(value: str) -> datetime:
    """Read an option's time, of what has happened; it may be a day ahead of this clock."""
    at = moment(value)
    if at > now() + GRACE:
        raise click.BadParameter(f"{value!r} is in the future; right would be when it happened")
    return at


def output_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--output FILE` and pass `output: BinaryIO`; a file is for its owner's eyes only.

    A disk that is full ends the command in one line that says how much was written.
    """

    @functools.wraps(function)
    def command(*args: Any, output: Path | None, **options: Any) -> Any:
        try:
            if output is None:
                result = function(*args, output=sys.stdout.buffer, **options)
                sys.stdout.buffer.flush()
                return result
            with open(output, "wb", opener=private) as file:
                return function(*args, output=file, **options)
        except OSError as error:
            if error.filename is not None or isinstance(error, BrokenPipeError):
                raise
            if output is None:
                forget_stdout()
            fail(f"{output or 'standard output'}: {error.strerror}: {_written(output)}")

    return click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write to FILE, which only its owner may read; else to standard output.",
    )(command)


def private(path: str, flags: int) -> int:
    """Open so that only the owner can read it, also what was there already. For `opener=`."""
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError as error:  # it belongs to somebody else
        os.close(descriptor)
        raise OSError(error.errno, error.strerror, path) from error
    return descriptor


def _written(output: Path | None) -> str:
    if output is None or not output.is_file():
        return "what was written is not whole"
    return f"the {output.stat().st_size:,} octets that were written are not whole"


TIME_HELP = f"A time like {EXAMPLE}, or a date"


def warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def warn_of_the_future(option: str, at: datetime | None, effect: str) -> None:
    """Today's date alone, whose last moment is yet to come, is none."""
    if at is not None and at.date() > now().date():
        warn(f"{option}: {at:%Y-%m-%d} is in the future; {effect}")


def scope_of(settings: Settings, purpose: str) -> str:
    """Return the scope of a no to one purpose: `marketing` where no stream has it, said aloud."""
    if purpose in settings.purposes:
        return f"purpose:{purpose}"
    warn(
        f"no stream has the purpose {purpose!r}, so this counts for all marketing; known are "
        f"{', '.join(sorted(settings.purposes))}"
    )
    return "marketing"


def note_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--note`, a motive of the closed list, and `--keep-notes` for free text."""

    @functools.wraps(function)
    def checked(*args: Any, note: str | None, keep_notes: bool, **options: Any) -> Any:
        if note is not None and not is_motive(note):
            if not keep_notes:
                fail(
                    f"--note: {note[:40]!r} is free text, and {FREE_TEXT}; right would be a motive "
                    f"like {', '.join(OWN_MOTIVES[:4])}, or --keep-notes",
                    2,
                )
            warn(f"--note: free text is kept: {FREE_TEXT}")
        return function(*args, note=note, **options)

    motive = click.option("--note", type=plain_text, help="The motive, of a closed list.")
    return motive(keep_notes_option(checked))


keep_notes_option = click.option(
    "--keep-notes",
    is_flag=True,
    help="Keep free text as a note for a year: no personal data.",
)


def check_purpose(settings: Settings, purpose: str) -> None:
    """Agreement to what no stream has is agreement to nothing: often it is misspelt."""
    if purpose not in settings.purposes:
        known = ", ".join(sorted(settings.purposes))
        fail(f"--purpose: no stream has the purpose {purpose!r}; known are {known}", 2)
