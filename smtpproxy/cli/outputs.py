"""Files that a command writes."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from smtpproxy.cli import discard_stdout, fail
from smtpproxy.disk import is_file
from smtpproxy.drafts import Drafts, is_direct

if TYPE_CHECKING:
    from smtpproxy.settings import Settings


@contextmanager
def written_to(output: Path | None) -> Iterator[BinaryIO]:
    """Open a file that only its owner may read, or standard output.

    The file is written once the command is done: until then, and if it fails, a former file stays.
    A full disk ends the command with one line that says what was written.
    """
    try:
        if output is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with Drafts() as drafts:
                yield drafts.open(output)
                drafts.commit()
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        if output is None:
            discard_stdout()
        written = "the output is incomplete" if not output or is_direct(output) else "not written"
        fail(f"{output or 'standard output'}: {error.strerror}: {written}")


def check_outputs(given: Mapping[str, object], outputs: Collection[str]) -> None:
    """Refuse to overwrite the configuration or another file that the command reads."""
    files = {name: path for name, path in given.items() if isinstance(path, Path)}
    for name in files.keys() & outputs:
        for path in (files[other] for other in files.keys() - outputs):
            output = files[name]
            if is_file(output) and is_file(path) and output.samefile(path):
                raise click.UsageError(f"--{name}: {output} is an input; name another file")


def check_not_own(
    settings: "Settings", given: Mapping[str, object], outputs: Collection[str]
) -> None:
    """Refuse to write to the relay's own files, even to those that are not there at the moment."""
    for name in sorted(outputs):
        output = given.get(name)
        if isinstance(output, Path) and str(output) != "-" and (why := own(settings, output)):
            raise click.UsageError(f"--{name}: {output} {why}; name another file")


def own(settings: "Settings", path: Path) -> str:
    """Say why a path is the relay's own; empty if it is not."""
    place = path.resolve()
    for name, folder in (
        ("server.state_dir", settings.server.state_dir),
        ("feedback.maildir", settings.feedback_dir),
    ):
        if place.is_relative_to(folder.resolve()):
            return f"is in {name}, which is for the relay's own files"
    if any(_is_same(path, each) for each in settings.named_paths):
        return "is a file that the configuration names"
    if any(_is_same(path, each) for each in _of_the_store(settings, place)):
        return "belongs to the store"
    return ""


def _of_the_store(settings: "Settings", place: Path) -> Iterator[Path]:
    """Yield the files of the store that a path could be."""
    from smtpproxy.store import is_postgresql, store_path
    from smtpproxy.store.key_files import FILE_NAME, key_place
    from smtpproxy.store.link_keys import LINK_KEY_FILE
    from smtpproxy.store.records import StoreMisconfigured

    for name in (FILE_NAME, LINK_KEY_FILE):
        with suppress(StoreMisconfigured):
            yield key_place(settings.server.state_dir, name).path
    if is_postgresql(settings.store):
        return
    database = store_path(settings.store)
    yield database
    names = re.escape(database.name), re.escape(database.stem)
    if re.fullmatch("{}-.*|{}-.*[.]db(-.*)?".format(*names), place.name):
        yield database.with_name(place.name)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one does not exist, or this user may not look at it
        return one.resolve() == other.resolve()
