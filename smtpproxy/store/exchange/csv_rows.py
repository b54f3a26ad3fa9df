"""Rows of a CSV file (RFC 4180), each known by its line and none able to spoil the next."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from smtpproxy.store.exchange.lines import ImportFault, Line, Rejected, decoded

_DELIMITERS = ",;\t"
_MAX_ROW_LINES = 50
_OPEN_QUOTE = "unexpected end of data"  # what csv says of a quote that is not closed


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: column names as they are there, and what parts the cells."""

    columns: tuple[str, ...]
    delimiter: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Row:
    number: int  # of its first line
    cells: list[str]
    content: bytes
    is_void: ClassVar[bool] = False


def first_line(lines: Iterator[Line | Rejected]) -> Line | None:
    """Return the line that ought to be the header; None when the file is empty."""
    first = next((line for line in lines if isinstance(line, Rejected) or not line.is_void), None)
    if isinstance(first, Rejected):
        raise ImportFault(f"line {first.number}: the header cannot be read: {first.reason}")
    return first


def read_header(line: Line, delimiter: str | None = None) -> Header:
    """Read the column names; without `delimiter`, it is the commonest of , ; and tab.

    Raises:
        ImportFault: it is no list of different names.
    """
    if line.content.lstrip().startswith(b'{"'):
        raise ImportFault(
            f"line {line.number}: this is NDJSON (one JSON object a line), not CSV: say "
            "--format ndjson, and give no --mapping, which is about columns"
        )
    try:
        text = decoded(line.content)
        delimiter = delimiter or max(_DELIMITERS, key=text.count)
        columns = tuple(cell.strip() for cell in _cells([text], delimiter))
    except (ValueError, csv.Error) as error:
        raise ImportFault(f"line {line.number}: the header cannot be read: {error}") from None
    named = [column.casefold() for column in columns if column]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ImportFault(
            f"line {line.number}: the header has {', '.join(twice)} more than once; "
            "give each column a name of its own"
        )
    return Header(columns, delimiter, line.content)


def read_rows(lines: Iterable[Line | Rejected], header: Header) -> Iterator[Row | Rejected]:
    """Yield the rows after the header. A header that comes again (files joined) is skipped."""
    source = _Source(iter(lines))
    width = len(header.columns)
    while line := source.take():
        if isinstance(line, Rejected):
            yield line
            continue
        if line.is_void or line.content == header.content:
            continue
        row = _row(line, source, header.delimiter)
        if isinstance(row, Row) and len(row.cells) > width:
            yield Rejected(
                row.number,
                f"{len(row.cells)} cells, but the header has {width}: "
                f"quote a cell that holds {header.delimiter!r}",
                (row.content,),
            )
            continue
        if isinstance(row, Row):
            row.cells.extend([""] * (width - len(row.cells)))
        yield row


class _Source:
    """Lines that can be given back."""

    def __init__(self, lines: Iterator[Line | Rejected]) -> None:
        self._lines = lines
        self._given_back: deque[Line | Rejected] = deque()

    def take(self) -> Line | Rejected | None:
        return self._given_back.popleft() if self._given_back else next(self._lines, None)

    def give_back(self, lines: list[Line], last: Line | Rejected | None) -> None:
        self._given_back.extendleft(reversed([*lines, last] if last else lines))


def _row(line: Line, source: _Source, delimiter: str) -> Row | Rejected:
    """Read one row, which goes on into the next lines while a quote is open.

    Lines that were looked at in vain are given back: a quote that is never closed costs
    its own line, not the rest of the file.
    """
    taken = [line]
    while True:
        fault = _OPEN_QUOTE
        if len(taken) == 1 or b'"' in taken[-1].content:
            try:
                cells = _cells([decoded(part.content) for part in taken], delimiter)
                return Row(line.number, cells, b"\n".join([part.content for part in taken]))
            except (ValueError, csv.Error) as error:
                fault = str(error)
        may_go_on = fault == _OPEN_QUOTE and len(taken) < _MAX_ROW_LINES
        following = source.take() if may_go_on else None
        if isinstance(following, Line):
            taken.append(following)
            continue
        source.give_back(taken[1:], following)
        if fault == _OPEN_QUOTE:
            fault = "a quote is opened and not closed; write a quote in a cell twice"
        return Rejected(line.number, fault, (line.content,))


def _cells(texts: list[str], delimiter: str) -> list[str]:
    if len(texts) == 1 and '"' not in texts[0]:
        return texts[0].split(delimiter)
    return next(csv.reader([f"{text}\n" for text in texts], delimiter=delimiter, strict=True))
