"""Reading rows of CSV (RFC 4180) and JSON objects, so that a faulty one cannot spoil the next."""

import csv
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice

import msgspec
from msgspec.structs import replace

from smtpproxy.store.exchange.encodings import BOM
from smtpproxy.store.exchange.lines import (
    ImportFault,
    Line,
    Lines,
    Rejected,
    decoded,
    names_in,
)

_DELIMITERS = ",;\t"
_MAX_ROW_LINES = 50
_MOST_CELLS_MORE, _MOST_JOINED = 10, 100  # extra cells, and width, of a row that can be repaired
_SAMPLE = 20  # lines to detect the delimiter from
_OPEN_QUOTE = "unexpected end of data"  # csv's error for a quote that is not closed
_SEP = re.compile(rb'"?sep=(.)"?\s*', re.IGNORECASE)  # names the delimiter to Excel
_AROUND = re.compile(
    r"[^<>@]*<\s*(?:mailto:)?([^<>\s@]+@[^<>\s@]+)\s*>|mailto:([^<>\s@,;?]+@[^<>\s@,;?]+)",
    re.IGNORECASE,
)
NULLS = frozenset({"NULL", "null", "(null)", "\\N", "NaN"})
"""How programs write that a cell has no value."""
_ERROR = re.compile(r"#(?:N/A|NV|[A-ZÀ-Ý/0-9_]{2,12}[!?])")  # #REF!, #NOM?, #DIV/0!


class Header(msgspec.Struct, frozen=True):
    """The line with the names of the columns, and the delimiter of the file."""

    columns: tuple[str, ...]
    delimiter: str
    content: bytes
    number: int = 1  # of its line
    original: bytes = b""  # the content before decoding
    above: bytes = b""  # a line `sep=` above it, with its end

    def check_once(self, is_read: Callable[[str], bool]) -> None:
        """Raise ImportFault if a column that `is_read`, by its key, comes more than once."""
        keys = [column_key(column) for column in self.columns]
        twice = {key for key in keys if key and keys.count(key) > 1 and is_read(key)}
        if twice:
            raise ImportFault(
                f"line {self.number}: the header has {', '.join(sorted(twice))} more than once; "
                "give each column a unique name"
            )

    def named(self) -> "Header":
        """Return the header without nameless columns at its end: what spills over into them belongs
        to no column."""
        width = max((place for place, name in enumerate(self.columns, 1) if name), default=0)
        return replace(self, columns=self.columns[:width])

    def places(self, fields: Mapping[str, str]) -> dict[str, int]:
        """Return the index of the cell of each field; `fields` are by the keys of columns. Raises
        ImportFault if two columns are the same field."""
        self.check_once(fields.__contains__)
        found: dict[str, int] = {}
        for place, column in enumerate(self.columns):
            name = fields.get(column_key(column))
            if name in found:
                both = f"{self.columns[found[name]]!r} and {column!r}"
                raise ImportFault(
                    f"line {self.number}: the header has {both}, which are both the {name}; "
                    "rename one"
                )
            if name is not None:
                found[name] = place
        return found

    def free(self, places: Mapping[str, int], fields: Container[str]) -> Container[int]:
        """Return the indexes of cells that may hold any text: of `fields`, and unread ones."""
        read = {place for name, place in places.items() if name not in fields}
        return set(range(len(self.columns))) - read

    def unread(self, fields: Container[str]) -> tuple[str, ...]:
        """Return a notice of the columns whose keys are not in `fields`, if there are any."""
        others = [one for one in self.columns if one and column_key(one) not in fields]
        return (f"columns that are not read: {', '.join(others)[:200]}",) if others else ()

    def without_address(self, column: str, then: str) -> ImportFault:
        """Return the fault of a header without `column`; `then` is what is expected."""
        return ImportFault(
            f"line {self.number}: the header has no column {column} for the address, only "
            f"{', '.join(filter(None, self.columns))[:200]} (split at {self.delimiter!r}, unless "
            f"a mapping sets the delimiter); {then}"
        )


class Row(Line, frozen=True, kw_only=True):
    """The cells of one or more lines, with the number of the first line."""

    cells: list[str]

    @property
    def is_void(self) -> bool:
        """Whether all cells are empty, like those of rows that were cleared in a spreadsheet."""
        return not any(map(str.strip, self.cells))


def cell_text(cell: str) -> str:
    """Return the text of a cell without spaces around it; a database's NULL is empty."""
    text = cell.strip()
    return "" if text in NULLS else text


def bare_address(cell: str) -> str:
    """Return the address in a cell like `Eva <eva@x.example>` or `mailto:…`.

    Any other cell is returned unchanged, even one with several addresses.
    """
    found = _AROUND.fullmatch(cell.strip()) if "<" in cell or ":" in cell else None
    return cell if found is None else found[1] or found[2]


def is_error(text: str) -> bool:
    """Whether a cell holds a spreadsheet's error value."""
    return text.startswith("#") and _ERROR.fullmatch(text) is not None


def check_no_error(text: str) -> None:
    """Raise ValueError if a cell holds a spreadsheet's error value."""
    if text[:1] == "#" and is_error(text):
        raise ValueError(f"{text[:40]!r} is an error of the spreadsheet, not a value")


def column_key(name: str) -> str:
    """Return the key that identifies a column: in NFC, without case and spaces around it."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def first_line(lines: Iterable[Line | Rejected]) -> Line | None:
    """Return the first line with content, or None if the file is empty. Raises ImportFault."""
    first = next((line for line in lines if isinstance(line, Rejected) or not line.is_void), None)
    if isinstance(first, Rejected):
        raise ImportFault(f"line {first.number}: the header cannot be read: {first.reason}")
    return first


def read_header(
    lines: Lines, delimiter: str | None = None, known: Container[str] = ()
) -> Header | None:
    """Read the names of the columns; return None if the file is empty.

    The default delimiter is that of a line `sep=`. Otherwise it is , ; or tab: of those in the
    header, the one that yields the most columns whose keys are `known`; then the one that splits
    the most of the next rows into as many cells as the header has; then the commonest. Raises
    ImportFault if it cannot be read.
    """
    first = first_line(lines)
    if first is None:
        return None
    above = b""
    if (sep := _SEP.fullmatch(first.content)) and (below := first_line(lines)) is not None:
        above, first = first.content + b"\n", below
        delimiter = delimiter or sep[1].decode(errors="replace")
    if first.content.lstrip().startswith(b'{"'):
        raise ImportFault(
            f"line {first.number}: this is NDJSON (one JSON object a line), not CSV: use "
            "--format ndjson, and no --mapping, which is for columns"
        )
    try:
        delimiter = delimiter or _delimiter(decoded(first.content), lines, known)
        columns = tuple(cell.strip() for cell in _cells([decoded(first.content)], delimiter))
    except (ValueError, csv.Error) as error:
        raise ImportFault(f"line {first.number}: the header cannot be read: {error}") from None
    return Header(columns, delimiter, first.content, first.number, first.original, above)


def _delimiter(header: str, lines: Lines, known: Container[str]) -> str:
    found = sorted((d for d in _DELIMITERS if d in header), key=header.count, reverse=True)
    if len(found) < 2:
        return found[0] if found else _DELIMITERS[0]
    sample = list(islice(lines, _SAMPLE))
    lines.give_back(sample)
    rows = [line.content for line in sample if isinstance(line, Line) and not line.is_void]
    return max(found, key=lambda delimiter: _fitting(header, rows, delimiter, known))


def _fitting(
    header: str, rows: Iterable[bytes], delimiter: str, known: Container[str]
) -> tuple[int, int]:
    """Return how many columns are known, and how many rows have as many cells as columns."""
    try:
        columns = _cells([header], delimiter)
    except csv.Error:
        return 0, 0
    width, fitting = len(columns), 0
    for row in rows:
        try:
            cells = _cells([decoded(row)], delimiter)
        except (ValueError, csv.Error):
            continue
        fitting += len(cells) == width or (len(cells) > width and not any(cells[width:]))
    return sum(column_key(column) in known for column in columns), fitting


def rejected_header(header: Header, *, in_named_encoding: bool = False) -> bytes:
    """Return the header of FILE.rejected, which can be imported in the same way as the file.

    If a mapping names the encoding, a byte order mark shows that this file is UTF-8.
    """
    return (BOM if in_named_encoding else b"") + header.above + header.original


def read_rows(lines: Lines, header: Header) -> Iterator[Row | Rejected]:
    """Yield the rows after the header; a repeated header, from joined files, is skipped."""
    width = len(header.columns)
    again = {header.content, header.above.rstrip(b"\n") or header.content}
    for line in lines:
        if isinstance(line, Rejected):
            legible = line.legible and _legible(line.legible, header.delimiter)
            yield replace(line, legible=legible)
            continue
        if line.is_void or line.content in again:
            continue
        row = _row(line, lines, header.delimiter)
        if isinstance(row, Row) and len(row.cells) != width:
            row = _of_width(row, header)
        if isinstance(row, Rejected) or not row.is_void:
            yield row


def _of_width(row: Row, header: Header) -> Row | Rejected:
    """Pad a short row, and drop empty cells from the end of a long one."""
    width = len(header.columns)
    if len(row.cells) < width and row.is_open and header.content:  # else its width is unknown
        return Rejected(
            row.number,
            f"{len(row.cells)} of {width} cells, and no line end: the file may be cut off here; if"
            " it is not, end the line",
            (row.original,),
            legible=row,
        )
    if any(cell.strip() for cell in row.cells[width:]):
        return Rejected(
            row.number,
            f"{len(row.cells)} cells, but the header has {width}: "
            f"quote a cell that contains {header.delimiter!r}, or name the column",
            (row.original,),
            legible=row,
        )
    del row.cells[width:]
    row.cells.extend([""] * (width - len(row.cells)))
    return row


def _row(line: Line, lines: Lines, delimiter: str) -> Row | Rejected:
    """Read one row, which continues on the next lines while a quote is open.

    If the quote is never closed, those lines are given back: it costs its own line, not the rest
    of the file.
    """
    taken = [line]
    while True:
        fault = _OPEN_QUOTE
        if len(taken) == 1 or b'"' in taken[-1].content:
            try:
                cells = _cells([decoded(part.content) for part in taken], delimiter)
                if len(taken) == 1:
                    return Row(
                        line.number, line.content, line.is_guessed, line.is_open, cells=cells
                    )
                content = b"\n".join([part.content for part in taken])
                guessed = any(part.is_guessed for part in taken)
                return Row(line.number, content, guessed, taken[-1].is_open, cells=cells)
            except (ValueError, csv.Error) as error:
                fault = str(error)
        may_go_on = fault == _OPEN_QUOTE and len(taken) < _MAX_ROW_LINES
        following = next(lines, None) if may_go_on else None
        if isinstance(following, Line):
            taken.append(following)
            continue
        lines.give_back([*taken[1:], following] if following else taken[1:])
        if fault == _OPEN_QUOTE:
            fault = "a quote is opened and not closed; double a quote inside a cell"
        return Rejected(line.number, fault, (line.original,), legible=_legible(line, delimiter))


def _legible(line: Line, delimiter: str) -> Row:
    """Return the cells of an invalid row, as far as they can be read."""
    text = line.content.decode(errors="replace")
    try:
        cells = _cells([text], delimiter)
    except csv.Error:
        cells = text.split(delimiter)
    return Row(line.number, line.content, is_guessed=True, cells=cells)


def readings(row: Row, width: int, delimiter: str, free: Container[int]) -> Iterator[list[str]]:
    """Yield the cells of a rejected row in every way in which they may be meant.

    With too many cells, one of them holds an unquoted delimiter: a `free` one, whose column may
    hold any text.
    """
    cells = list(row.cells)
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    more = len(cells) - width
    if more <= 0:
        yield [*cells, *[""] * -more]
    elif more <= _MOST_CELLS_MORE and width <= _MOST_JOINED:
        for place in filter(free.__contains__, range(width)):
            rest = place + more + 1
            yield [*cells[:place], delimiter.join(cells[place:rest]), *cells[rest:]]


def _cells(texts: list[str], delimiter: str) -> list[str]:
    if len(texts) == 1 and '"' not in texts[0]:
        return texts[0].split(delimiter)
    return next(csv.reader([f"{text}\n" for text in texts], delimiter=delimiter, strict=True))


class _Returned:
    """A file whose `write` returns the text; `writerow` returns that too."""

    def write(self, text: str) -> str:
        return text


@cache  # a file has one delimiter: a writer for each row would take as long again
def row_writer(delimiter: str = ",", ending: str = "") -> Callable[[Iterable[str]], str]:
    """Return a function that writes cells as a row of CSV."""
    writer = csv.writer(_Returned(), delimiter=delimiter, lineterminator=ending)
    return writer.writerow


_MOST_LINES = 100  # of one object
_LIST = re.compile(rb"\[\s*\{")


def one_object_a_line(lines: Iterator[Line | Rejected]) -> Iterator[Line | Rejected]:
    """Yield one object a line, without blank lines.

    Of a document such as `{"Suppressions": [ {…}, {…} ]}`, on one line or printed with one
    field a line, only the innermost objects are yielded. Objects nested in those are not
    supported.
    """
    pending: list[Line] = []
    spread = False  # an object is spread over lines, and not closed yet
    for line in lines:
        if isinstance(line, Rejected):
            pending.clear()
            yield line
            continue
        if line.is_void:
            continue
        text = line.content.strip()
        if text == b"{":
            pending, spread = [line], True
        elif not spread:
            yield from _listed(line)
        elif text in (b"}", b"},"):
            if pending:
                content = b"\n".join(part.content for part in pending) + b"\n}"
                yield Line(pending[0].number, content)
            pending = []
        elif pending and text.endswith((b"[", b"{")):
            pending = []  # it contains other objects
        elif pending and len(pending) < _MOST_LINES:
            pending.append(line)


def _listed(line: Line) -> Iterator[Line]:
    """Yield the objects of the only list in a document on one line, or else the line itself."""
    try:
        found = msgspec.json.decode(line.content) if _LIST.search(line.content) else None
    except msgspec.MsgspecError:
        found = None
    values = found.values() if isinstance(found, dict) else ()
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) != 1 or not all(isinstance(one, dict) for one in lists[0]):
        yield line
        return
    if any(len(set(names)) < len(names) for names in names_in(line.content)):
        yield line  # encoding it again would drop one of the values
        return
    for one in lists[0]:
        yield Line(line.number, msgspec.json.encode(one))
