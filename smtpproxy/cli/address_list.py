"""Lists of addresses that a command looks up and does not keep."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import click

from smtpproxy.cli.common import fail
from smtpproxy.cli.stores import warn
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.entry import entered_name
from smtpproxy.scrub.formats import address_place
from smtpproxy.store.exchange.lines import (
    ImportFault,
    Line,
    Lines,
    Rejected,
    certain,
    read_lines,
)
from smtpproxy.store.exchange.rows import Row, first_line, read_header, read_rows

_BATCH = 2_000


class AddressFile:
    """Addresses and whole domains: one a line, or in a column address or email of a CSV.

    Lines that hold none are told on stderr, counted in `unreadable` and left out.
    """

    def __init__(self, path: Path) -> None:
        """`path`: - is standard input."""
        self._path = path
        self.unreadable = 0

    def batches(self) -> Iterator[Sequence[str]]:
        """Yield them in canonical form, by the thousand."""
        with click.open_file(str(self._path), "rb") as file:
            try:
                names = self._names(read_lines(cast(BinaryIO, file)))
                while batch := list(islice(names, _BATCH)):
                    yield batch
            except ImportFault as error:
                fail(f"{self._path}: {error}")

    def _names(self, lines: Lines) -> Iterator[str]:
        first = first_line(lines)
        if first is None:
            return
        lines.give_back([first])
        items: Iterator[Line | Row | Rejected] = lines
        place: int | None = None
        if not (first.content.startswith(b"#") or _is_name(first.content)):
            header = read_header(lines, known=("address", "email"))
            assert header is not None
            place = address_place(header)
            items = read_rows(lines, header)
        for item in items:
            if isinstance(item, Rejected):
                self._tell(item.number, item.reason)
                continue
            if item.is_void or (place is None and item.content.startswith(b"#")):
                continue
            try:
                text = item.cells[place or 0] if isinstance(item, Row) else _text(item.content)
                yield entered_name(certain(text, item))
            except (AddressError, ValueError) as error:
                self._tell(item.number, str(error))

    def _tell(self, number: int, reason: str) -> None:
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
