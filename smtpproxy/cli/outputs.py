"""Files that a command writes."""

import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli import discard_stdout, fail


@contextmanager
def written_to(output: Path | None) -> Iterator[BinaryIO]:
    """Open a file that only its owner may read, or standard output.

    A full disk ends the command with one line that says how much was written.
    """
    try:
        if output is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with open(output, "wb", opener=private) as file:
                yield file
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        if output is None:
            discard_stdout()
        fail(f"{output or 'standard output'}: {error.strerror}: {_written(output)}")


def check_outputs(given: Mapping[str, object], outputs: Collection[str]) -> None:
    """Refuse to overwrite the configuration or another file that the command is to read."""
    files = {name: path for name, path in given.items() if isinstance(path, Path)}
    for name in files.keys() & outputs:
        for path in (files[other] for other in files.keys() - outputs):
            output = files[name]
            if output.is_file() and path.is_file() and output.samefile(path):
                raise click.UsageError(f"--{name}: {output} is to be read; name another file")


def private(path: str, flags: int) -> int:
    """Open a new or existing file so that only its owner can read it. For `opener=`."""
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
        return "the output is incomplete"
    return f"incomplete, only {output.stat().st_size:,} octets were written"
