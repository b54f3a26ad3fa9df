"""Surveying a whole table without a mapping: what its columns hold, and how times are written."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from msgspec import Struct, field

from smtpproxy import toml
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.exchange.lines import ImportFault, Lines, Rejected, no_rows, read_lines
from smtpproxy.store.exchange.rows import (
    Row,
    bare_address,
    cell_text,
    column_key,
    read_header,
    read_rows,
)
from smtpproxy.store.exchange.tables import columns_of, is_json, json_rows, read_table

MOST_VALUES = 24
"""A column with more different cells is not a flag."""

_LONGEST_VALUE = 60
_EXAMPLES = 3
_TICK = 2_000  # rows between two reports of progress
_MOST_COLUMNS = 1_000
_ADDRESS = re.compile(r"\s*<?[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+>?\s*")
_SIGNS = re.compile(r"[^0-9a-z]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PARTED = re.compile(
    r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?: \d{1,2}:\d\d(:\d\d)?( ?[AaPp][Mm])?)?"
)
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:([T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?) ?(Z|[+-]\d\d:?\d\d)?)?")
_YEAR_FIRST = re.compile(r"\d{4}([/.])\d{1,2}\1\d{1,2}(?: \d{1,2}:\d\d(:\d\d)?)?")
_RFC_2822 = re.compile(r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? \S+")
_EXCEL = re.compile(r"[2-5]\d{4}(?:[.,]\d+)?")  # days from 1954 to 2064
_EPOCH = re.compile(r"1\d{9}(?:\.\d+)?|1\d{12}")  # from 2001 to 2033
_LONGEST_TIME = 40
_CLEAR = 8  # letters
_LAST_MONTH = 12


def plain_words(text: str) -> str:
    """Return words without case, accents and signs: `optInDate`, `Opt-in date` → `opt in date`."""
    parted = unicodedata.normalize("NFKD", _HUMP.sub(" ", text))
    bare = "".join(c for c in parted if not unicodedata.combining(c)).casefold()
    return _SIGNS.sub(" ", bare).strip()


@cache
def words(table: str) -> Mapping[str, frozenset[str]]:
    """Return a table of columns.toml: the names of columns or cells for a field, or other words."""
    folder = resources.files("smtpproxy.store.exchange")
    document = toml.loads(folder.joinpath("columns.toml").read_text("utf-8"))
    return {name: frozenset(texts) for name, texts in document[table].items()}


@cache
def _refusals() -> Sequence[str]:
    """Return words of refusal that can hardly mean anything else in a longer text."""
    clear = {name for name in words("names")["opt_out"] if len(name) >= _CLEAR}
    found = clear | words("words")["out"]
    return [one for one in found if not any(other in one for other in found - {one})]


def _refuses(text: str) -> bool:
    """Whether a text has a word of refusal: compared faster than other cells, being many."""
    plain = text.lower() if text.isascii() else plain_words(text)
    return any(one in plain for one in _refusals())


class TimeForms(Struct):
    """The notations of a column's cells, with examples.

    In a pattern, `%1` and `%2` are day and month, in an unknown order.
    """

    patterns: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)  # Excel or epoch, or not times at all
    day_first: str = ""  # a cell that can only be day first
    month_first: str = ""
    unclear: str = ""  # a cell that can be either
    zoneless: str = ""  # a cell with a time of day but no zone
    early: str = ""  # a date with the year first, and a day that may be a month
    exchanged: set[str] = set()  # patterns of those with day and month swapped
    late_text: str = ""  # a date as people write it, of a day after the 12th
    _unlike: bool = False  # a cell that a spreadsheet which swaps them would have changed

    def add(self, text: str) -> None:
        if len(text) > _LONGEST_TIME or not text[:1].isalnum():
            return
        if found := _PARTED.fullmatch(text):
            self._add_parted(text, *found.groups())
        elif found := _ISO.fullmatch(text):
            self.patterns["iso"] += 1
            self._add_iso(text, found[1] or "", zoned=bool(found[2]))
            if found[1] and not found[2]:
                self.zoneless = self.zoneless or text
        elif found := _YEAR_FIRST.fullmatch(text):
            sign, has_time = found[1], ":" in text
            self.patterns[f"%Y{sign}%m{sign}%d{_hours(has_time, found[2], None)}"] += 1
            self.zoneless = self.zoneless or (text if has_time else "")
        elif _EXCEL.fullmatch(text):
            self.numbers["excel"] += 1
        elif _EPOCH.fullmatch(text):
            self.numbers["epoch"] += 1
        elif _RFC_2822.fullmatch(text):
            self.patterns["rfc2822"] += 1

    def _add_iso(self, text: str, time: str, *, zoned: bool) -> None:
        if int(text[8:10]) > _LAST_MONTH:
            self._unlike = True
            return
        self.early = self.early or text
        hours = {0: "", len("T10:00:00"): f"{time[:1]}%H:%M:%S"}.get(len(time))
        self.exchanged.add("" if zoned or hours is None else f"%Y-%d-%m{hours}")

    @property
    def may_be_exchanged(self) -> bool:
        """Whether a spreadsheet may have read days as months, and left other days as text.

        Then no date has a day after the 12th, and all texts have one.
        """
        return bool(self.early and self.late_text) and not self._unlike

    def _add_parted(
        self, text: str, first: str, sign: str, second: str, year: str,
        seconds: str | None, noon: str | None,
    ) -> None:  # fmt: skip
        has_time = ":" in text
        years = "%Y" if len(year) > len("26") else "%y"
        self.patterns[f"%1{sign}%2{sign}{years}{_hours(has_time, seconds, noon)}"] += 1
        if has_time:
            self.zoneless = self.zoneless or text
        if max(int(first), int(second)) > _LAST_MONTH:
            self.late_text = self.late_text or text
        else:
            self._unlike = True
        if int(first) > _LAST_MONTH or sign == ".":
            self.day_first = self.day_first or text
        elif int(second) > _LAST_MONTH:
            self.month_first = self.month_first or text
        elif first != second:
            self.unclear = self.unclear or text

    def written(self, *, day_first: bool) -> list[str]:
        """Return the notations of a mapping, the commonest first."""
        day, month = ("%d", "%m") if day_first else ("%m", "%d")
        found = [pattern for pattern, _ in (self.patterns or self.numbers).most_common()]
        return [pattern.replace("%1", day).replace("%2", month) for pattern in found]


def _hours(has_time: bool, seconds: str | None, noon: str | None) -> str:
    if not has_time:
        return ""
    hours = " %I:%M" if noon else " %H:%M"
    return hours + (":%S" if seconds else "") + (noon.replace(noon.strip(), "%p") if noon else "")


class ColumnLook(Struct):
    """What the cells of one column hold, apart from empty ones."""

    name: str
    filled: int = 0
    addresses: int = 0
    values: Counter[str] | None = field(default_factory=Counter)  # None: too many different ones
    examples: list[str] = []
    times: TimeForms = field(default_factory=TimeForms)
    refusing: int = 0  # cells with a word of refusal, if there are too many different ones
    refusing_line: int = 0  # the first of them

    def add(self, cell: str, line: int = 0) -> None:
        text = cell_text(cell)
        if not text:
            return
        self.filled += 1
        if len(self.examples) < _EXAMPLES and text not in self.examples:
            self.examples.append(text)
        if "@" in text:
            self.addresses += _ADDRESS.fullmatch(bare_address(text)) is not None
        else:
            self.times.add(text)
        if self.values is not None:
            if len(text) <= _LONGEST_VALUE:
                self.values[text] += 1
            if len(text) > _LONGEST_VALUE or len(self.values) > MOST_VALUES:
                self.values = None
        if _refuses(text):
            self.refusing += 1
            self.refusing_line = self.refusing_line or line

    @property
    def holds_addresses(self) -> bool:
        return self.addresses * 2 > self.filled

    @property
    def holds_times(self) -> bool:
        return self.times.patterns.total() * 2 > self.filled

    @property
    def holds_numbers_for_times(self) -> bool:
        return self.times.numbers.total() * 2 > self.filled

    @property
    def unread_times(self) -> int:
        """How many cells of a column of times are not times."""
        return self.filled - (self.times.patterns or self.times.numbers).total()


class TableLook(Struct, frozen=True):
    """What a whole table holds."""

    columns: tuple[ColumnLook, ...]  # those with a unique name
    twice: tuple[str, ...]  # names that several columns have
    rows: int
    rejected: tuple[str, ...]  # the first faults
    delimiter: str | None  # None: not CSV
    encoding: str | None  # None: not CSV
    notices: tuple[str, ...]
    is_headless: bool  # its first row contains an address
    title: str  # the only cell of its first row, if most others have more; otherwise empty
    above: tuple[str, ...]  # the cells between its first row and the first row with an address

    def column(self, name: str) -> ColumnLook | None:
        key = column_key(name)
        return next((one for one in self.columns if column_key(one.name) == key), None)


def look_at(path: Path, tick: Callable[[int, int | None], None]) -> TableLook:
    """Read a whole file. `tick` receives the octets and rows read so far. Raises OSError, and
    ImportFault if it is not a table, or an empty one."""
    with Source(path) as file:
        start = file.start[:64]
        is_sheet, of_json = start.startswith(b"PK\x03\x04"), is_json(start)
        lines = _json_lines(path, file) if of_json else read_table(file)
        header = read_header(lines)
        if header is None:
            raise ImportFault(no_rows(None))
        keys = [column_key(name) for name in header.columns]
        columns = [
            (place, ColumnLook(name))
            for place, name in enumerate(header.columns[:_MOST_COLUMNS])
            if name and keys.count(keys[place]) == 1
        ]
        named = [] if of_json else [name for name in header.columns if name]
        rows, rejected, wider, with_address = 0, [], 0, 0
        above: list[str] = []
        for row in read_rows(lines, header):
            rows += 1
            cells = _cells(row)
            wider += len(named) == 1 and _is_wider(cells)
            with_address += any("@" in cell for cell in cells)
            if not with_address and len(above) < _MOST_COLUMNS:
                above += cells
            if rows % _TICK == 0:
                tick(file.tell(), rows)
            if isinstance(row, Rejected):
                rejected.append(f"line {row.number}: {row.reason}")
                del rejected[_EXAMPLES:]
                continue
            if not any("@" in cell for cell in row.cells):
                continue  # a total, a title: about no person
            for place, column in columns:
                column.add(row.cells[place], row.number)
        is_csv = not (is_sheet or of_json)
        note = lines.decoder.note()
        return TableLook(
            tuple(column for _, column in columns),
            tuple(dict.fromkeys(n for n, k in zip(header.columns, keys, strict=True)
                                if k and keys.count(k) > 1)),
            rows,
            tuple(rejected),
            header.delimiter if is_csv else None,
            lines.decoder.found() if is_csv else None,
            (*lines.notices, *([note] if note else [])),
            any(_ADDRESS.fullmatch(name) for name in header.columns),
            named[0] if wider * 2 > rows else "",
            tuple(above),
        )  # fmt: skip


def _cells(row: Row | Rejected) -> list[str]:
    """Return the cells of a row that are not empty, as far as it can be read."""
    full = row.legible if isinstance(row, Rejected) else row
    return [cell for cell in full.cells if cell.strip()] if isinstance(full, Row) else []


def _is_wider(cells: Sequence[str]) -> bool:
    """Whether a row has more than one cell, or would have if it were split."""
    return len(cells) > 1 or any(sign in cell for cell in cells for sign in ";\t")


def _json_lines(path: Path, file: Source) -> Lines:
    with Source(path) as first:
        names = columns_of(read_lines(first, "utf-8"))
    if not names:
        raise ImportFault("no line is a JSON object")
    return json_rows(read_lines(file, "utf-8"), names, "|")
