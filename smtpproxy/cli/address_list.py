"""Lists of addresses, one a line, that a command looks up and does not keep."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import click

from smtpproxy.cli.stores import warn
from smtpproxy.mail.address import AddressError, canonical

_BATCH = 2_000


def batches_of_addresses(path: Path) -> Iterator[Sequence[str]]:
    """Yield the canonical addresses of a file (- is standard input), some thousand at a time.

    Lines that hold none are told on stderr and left out.
    """
    with click.open_file(str(path), "rb") as file:
        addresses = _addresses(file)
        while batch := list(islice(addresses, _BATCH)):
            yield batch


def _addresses(lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        text = line.strip(b" \t\r\n\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if not text or text.startswith("#"):
            continue
        try:
            yield canonical(text)
        except AddressError as error:
            warn(f"line {number}: {error}")
