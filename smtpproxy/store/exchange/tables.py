"""Reading any table as lines of CSV: CSV itself, spreadsheets (XLSX), and other NDJSON."""

import io
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from functools import partial
from typing import Any, BinaryIO

import msgspec
from msgspec.structs import replace

from smtpproxy.store.exchange.lines import (
    ImportFault,
    Line,
    Lines,
    Rejected,
    legible_json,
    read_lines,
    read_object,
)
from smtpproxy.store.exchange.mapping import Mapping
from smtpproxy.store.exchange.rows import column_key, row_writer

_ZIP = b"PK\x03\x04"
_START = 64
_NOT_SPACE = b" \t\r\n\xef\xbb\xbf"
_MOST_UNPACKED = 2 << 30  # octets of a whole spreadsheet, read in a stream
_MOST_IN_MEMORY = 256 << 20  # octets of the other parts: above all, its texts
_MOST_PARSED = 8 << 20  # octets of parts that become many objects: above all, its styles
_MOST_ROWS = 1 << 20  # of a sheet, Excel's own limit: row numbers in a file may skip billions
_MOST_COLUMNS = 1_000  # of JSON objects, and of a sheet
_MOST_LOOKED_AT = 1_000  # lines of JSON, for the names of columns
_DEEPEST = 5  # objects in objects
_TOO_LARGE = "the spreadsheet is too large; save it as CSV in UTF-8"
_PARSED = ("styles.xml", "workbook.xml", ".rels", "[Content_Types].xml", "theme1.xml")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def is_json(start: bytes) -> bool:
    """Whether a file holds JSON objects, by its first octets."""
    return start.lstrip(_NOT_SPACE).startswith(b"{")


def read_table(file: BinaryIO, mapping: Mapping | None = None) -> Lines:
    """Read the lines of a table, the first of them its header.

    Without a mapping, lines of JSON are returned unchanged. Raises ImportFault if it is not a
    table; from the first line, if it is not text.
    """
    start = file.peek(_START)[:_START] if isinstance(file, io.BufferedReader) else b""
    delimiter = (mapping and mapping.delimiter) or ","
    if start.startswith(_ZIP):
        counted = mapping is not None and "excel" in (mapping.notation.pattern or "").split("|")
        return read_sheet(file, delimiter, counted=counted)
    if mapping is not None and is_json(start):
        named = [*mapping.columns, *sorted(mapping.columns_read - mapping.columns.keys())]
        return json_rows(read_lines(file, "utf-8"), named, mapping.separator, delimiter)
    return read_lines(file, mapping.encoding if mapping else None)


_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(text: str) -> str:
    """Put an apostrophe before text of others that a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Return the text that `guarded` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_line(number: int, cells: Sequence[str], delimiter: str = ",") -> Line:
    """Return cells as a line of CSV; a line break in a cell is quoted."""
    return Line(number, row_writer(delimiter)(cells).encode("utf-8", "replace"))


def json_rows(lines: Lines, columns: Sequence[str], separator: str, delimiter: str = ",") -> Lines:
    """Return JSON objects, one a line, as rows of these columns, after a header.

    A column is a key, or keys joined with dots, in any case.
    """
    keys = [column_key(column) for column in columns]
    wanted = frozenset(keys)

    def rows() -> Iterator[Line | Rejected]:
        yield csv_line(0, columns, delimiter)
        for line in lines:
            if isinstance(line, Rejected):
                legible = line.legible and read_as_far(line.legible)
                yield replace(line, legible=legible)
                continue
            if line.is_void:
                yield line
                continue
            try:
                yield row(line.number, line.content)
            except ValueError as error:
                yield Rejected(line.number, str(error), (line.content,), legible=read_as_far(line))

    def row(number: int, content: bytes) -> Line:
        found: dict[str, str] = {}
        for name, text in flat(content, separator):
            if (key := column_key(name)) in found and key in wanted:
                raise ValueError(f"{name[:40]!r} appears twice in one object; give it once")
            found[key] = text
        return csv_line(number, [found.get(key, "") for key in keys], delimiter)

    def read_as_far(line: Line) -> Line | None:
        try:
            return row(line.number, legible_json(line.content))
        except ValueError:
            return None

    return Lines(rows(), lines.decoder)


def flat(content: bytes, separator: str = "|") -> list[tuple[str, str]]:
    """Return the keys and texts of a JSON object, with `outer.inner` for nested ones. Raises
    ValueError if it is not a JSON object."""
    try:
        pending = [("", read_object(_decode, content), 0)]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a JSON object on one line: {error}") from None
    found: list[tuple[str, str]] = []
    while pending and len(found) < _MOST_COLUMNS:
        prefix, objects, depth = pending.pop()
        for name, value in objects.items():
            if isinstance(value, dict):
                if depth < _DEEPEST:
                    pending.append((f"{prefix}{name}.", value, depth + 1))
            elif isinstance(value, list):
                found.append((f"{prefix}{name}", separator.join(map(_text, value))))
            else:
                found.append((f"{prefix}{name}", _text(value)))
    return found


def read_sheet(file: BinaryIO, delimiter: str = ",", *, counted: bool = False) -> Lines:
    """Read the first sheet with rows of a spreadsheet, row by row.

    `counted`: bare numbers will be read as days from 1900. Raises ImportFault if it cannot be read,
    would need too much memory, or counts from 1904.
    """
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - its rows are read from it
    try:
        shutil.copyfileobj(file, copy)
        read, notices = _first_sheet(copy, counted=counted)
    except BaseException:
        copy.close()
        raise
    return Lines(_sheet_lines(read, copy, delimiter), notices=notices)


def _first_sheet(copy: BinaryIO, *, counted: bool) -> tuple[Any, tuple[str, ...]]:
    """Return the first visible sheet with rows, if any, and notices of the sheets not read.

    Raises ImportFault.
    """
    from openpyxl.utils.datetime import CALENDAR_MAC_1904  # slow, and only for spreadsheets

    from smtpproxy.store.exchange.spreadsheet import open_book

    # Its warnings do not concern values; an invalid cell reads #VALUE!.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")

    try:
        _check_size(zipfile.ZipFile(copy).infolist())
        book = open_book(
            copy,
            check_parsed=partial(_check_part, _MOST_PARSED),
            check_texts=partial(_check_part, _MOST_IN_MEMORY),
        )
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        for sheet in sheets:
            sheet.reset_dimensions()  # some programs write wrong ones
        read = next((sheet for sheet in sheets if _has_rows(sheet)), None)
    except ImportFault:
        raise
    except Exception as error:  # openpyxl raises many kinds for an invalid file
        raise ImportFault(
            f"it is a spreadsheet or an archive that cannot be read ({_in_words(error)}); save it "
            "as XLSX or as CSV in UTF-8"
        ) from None
    if counted and book.epoch == CALENDAR_MAC_1904:
        raise ImportFault(
            'the spreadsheet counts days from 1904, but time_format = "excel" from 1900: give the'
            " cells with times a date format"
        )
    others = [sheet.title for sheet in sheets if sheet is not read]
    which = f"the sheet {read.title!r} is read" if read else "no sheet has rows"
    return read, (f"{which}; not read: {', '.join(others)[:200]}",) if others else ()


def _check_size(parts: Iterable[zipfile.ZipInfo]) -> None:
    whole, in_memory, parsed = 0, 0, 0
    for part in parts:
        whole += part.file_size
        if not part.filename.startswith("xl/worksheets/"):
            in_memory += part.file_size
        if part.filename.endswith(_PARSED):
            parsed += part.file_size
    if whole > _MOST_UNPACKED or in_memory > _MOST_IN_MEMORY or parsed > _MOST_PARSED:
        raise ImportFault(_TOO_LARGE)


def _check_part(most: int, part: zipfile.ZipInfo) -> None:
    if part.file_size > most:
        raise ImportFault(_TOO_LARGE)


def _has_rows(sheet: Any) -> bool:
    return any(row.count(None) < len(row) for row in _rows(sheet))


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row, even empty ones. Raises ImportFault if there are too many."""
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        if number > _MOST_ROWS:
            raise ImportFault(f"the spreadsheet has more than {_MOST_ROWS:,} rows")
        yield row


def _sheet_lines(sheet: Any, copy: BinaryIO, delimiter: str) -> Iterator[Line | Rejected]:
    with copy:
        if sheet is None:
            return
        try:
            for number, row in enumerate(_rows(sheet), 1):
                beyond = row[_MOST_COLUMNS:]
                cells = [_text(cell) for cell in row[:_MOST_COLUMNS]]
                while cells and not cells[-1]:
                    cells.pop()
                line = csv_line(number, cells, delimiter)
                if beyond.count(None) < len(beyond):
                    wrong = f"it has a cell beyond column {_MOST_COLUMNS:,}"
                    yield Rejected(number, wrong, (wrong.encode(),), legible=line)
                else:
                    yield line
        except ImportFault:
            raise
        except Exception as error:  # as above
            raise ImportFault(
                f"row {number + 1}: the spreadsheet is broken ({_in_words(error)})"
            ) from None


def _in_words(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _text(value: object) -> str:
    """Return a value of a spreadsheet or of JSON as a cell of CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        is_day = value.time() == time.min
        return value.date().isoformat() if is_day else value.isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def columns_of(lines: Iterable[Line | Rejected]) -> list[str]:
    """Return the keys of the first JSON objects, in the order in which they come."""
    found: dict[str, str] = {}
    for _, line in zip(range(_MOST_LOOKED_AT), lines, strict=False):
        if isinstance(line, Rejected) or line.is_void:
            continue
        try:
            for name, _ in flat(line.content):
                if len(found) < _MOST_COLUMNS:
                    found.setdefault(column_key(name), name)
        except ValueError:
            continue
    return list(found.values())
