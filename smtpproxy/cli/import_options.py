"""What `contact import` and `suppress import` are asked: the file, its options, the task."""

import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import click

from smtpproxy.cli.frame import fail
from smtpproxy.cli.import_record import (
    Job,
    Replacing,
    age_of,
    digest_of,
    to_replace,
    to_resume,
)
from smtpproxy.cli.options import file_type, flag, option
from smtpproxy.cli.stores import now
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import Compare
from smtpproxy.store.exchange.files import STDIN
from smtpproxy.store.exchange.layouts import PROVIDERS, layouts
from smtpproxy.store.exchange.lines import Contents
from smtpproxy.store.exchange.run import Format
from smtpproxy.store.operations import Batch, Kind
from smtpproxy.store.protocols import BatchResult, Store

T = TypeVar("T")
Put = Callable[[Sequence[T], Batch], Awaitable[BatchResult]]

_OWN: dict[str, Format] = {"csv": "csv", "ndjson": "ndjson"}


def format_type(value: str) -> str:
    """Read an option's format. For `type=format_type`."""
    names = {one.name for kind in ("suppressions", "contacts") for one in layouts(kind)}
    if value not in (*_OWN, *PROVIDERS, *names):
        known = ", ".join((*_OWN, *PROVIDERS, *sorted(names)))
        raise click.BadParameter(f"{value!r} is not one of {known}")
    return value


def input_file(value: str) -> Path:
    """Read the argument FILE; `-` is standard input. For `type=input_file`."""
    path = Path(value)
    if path == STDIN:
        return path
    try:
        found = path.stat()
    except PermissionError:
        fail(f"{value}: permission denied: the folder may not be entered")
    except OSError as error:
        raise click.BadParameter(f"{value!r}: {error.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise click.BadParameter(f"{value!r} is a folder")
    if not os.access(path, os.R_OK):
        fail(f"{value}: permission denied: this user may not read it")
    return path


file_argument = click.argument("file", type=input_file)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The options that every import has."""

    rejected: Path | None = option(
        "Where lines that cannot be read go, with their reasons; else FILE.rejected, of standard"
        " input stdin.rejected. A file that no import wrote is not overwritten.",
        click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    )  # fmt: skip
    file_format: str | None = option(
        "csv or ndjson, our own form; or the export of a provider, like mailgun or"
        " sendgrid-bounces. Else by the file's name and header.",
        format_type, name="--format", metavar="FORMAT",
    )  # fmt: skip
    resume: str | None = option(
        "Continue an interrupted import where it stopped. FILE and the other"
        " options must be the same.",
        metavar="ID",
    )  # fmt: skip
    replace: str | None = option(
        "The import that this one corrects: it is undone when this one is complete. none: keep"
        " what an earlier import of the same file brought in under another mapping.",
        metavar="ID",
    )  # fmt: skip
    mapping: Path | None = option(
        "Which column of a CSV is which field; else its columns have the fields' names, or those"
        " of a provider's export.",
        file_type(), metavar="FILE.toml",
    )  # fmt: skip
    dry_run: bool = flag(
        "Show what would be new, changed or ignored, and who would be mailed again who is not"
        " now; write nothing."
    )

    @property
    def own_format(self) -> Format | None:
        """The format when it is our own form."""
        return _OWN.get(self.file_format or "")

    @property
    def layout(self) -> str | None:
        """The layout or provider that is meant, if it is one."""
        return None if self.own_format else self.file_format


@dataclass(frozen=True, slots=True)
class Task:
    """An import that is about to be run or compared."""

    settings: Settings
    path: Path
    job: Job
    replacing: Replacing
    options: ImportOptions

    @property
    def hint(self) -> str:
        """The name by which the file hints at what it is."""
        earlier = self.job.earlier
        return (Path(earlier.file) if earlier else self.path).name.removesuffix(".rejected")

    @property
    def shown(self) -> str:
        return "standard input" if self.path == STDIN else str(self.path)


@dataclass(frozen=True, slots=True)
class Handling(Generic[T]):
    """How the lines of a kind of import are read, compared with the store, and put into it."""

    contents: Callable[[BinaryIO, Format], Contents[T]]
    compare: Callable[[Store], Compare[T]]
    put: Callable[[Store], Put[T]]
    notices: Callable[[], Iterable[str]]


def prepare(
    settings: Settings,
    file: Path,
    kind: Kind,
    options: ImportOptions,
    others: Mapping[str, str | None],
    as_of: datetime | None = None,
) -> Task:
    """Return what is to be done; end the command where that cannot be.

    `others` are further options that decide how the file is read.
    """
    if options.mapping is not None and options.file_format not in (None, "csv"):
        raise click.UsageError(
            f"--mapping is about columns of CSV, and --format is {options.file_format}"
        )
    deciding = {name: value or "" for name, value in others.items()}
    deciding |= {"format": options.file_format or "", "mapping": digest_of(options.mapping)}
    earlier = to_resume(settings, options.resume, kind, deciding)
    replacing = to_replace(settings, options.replace, kind)
    age = earlier.as_of if earlier else age_of(_time_of(file), as_of)
    if kind == "contacts" and not earlier:
        age = replacing.age(age)
    return Task(settings, file, Job(kind, age, deciding, earlier), replacing, options)


def _time_of(file: Path) -> datetime:
    """Return when the file was last written; what comes through a pipe is of now."""
    found = os.fstat(0) if file == STDIN else file.stat()
    if not stat.S_ISREG(found.st_mode):
        return now()
    return datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)
