"""Lists of addresses, one a line, that a command looks up and does not keep."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import click

from smtpproxy.cli.stores import warn
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.entry import entered_name

_BATCH = 2_000


def batches_of_addresses(path: Path) -> Iterator[Sequence[str]]:
    """Yield the addresses and whole domains of a file (- is standard input) by the thousand.

    They are in canonical form. Lines that hold none are told on stderr and left out.
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
            yield entered_name(text)
        except AddressError as error:
            warn(f"line {number}: {error}")
