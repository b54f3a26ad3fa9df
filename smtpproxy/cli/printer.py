"""Printing: a command returns a `Result`, which is shown to people or to programs."""

import csv
import io
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

import click
from msgspec import Struct, structs

from smtpproxy.cli import fail
from smtpproxy.terminal import printable

VERDICT_STYLES = {"allow": "green", "refuse": "red", "defer": "yellow"}

_GAP = "  "
_SHORTEST_ID = 12  # of an id: its time, and enough to distinguish ids of one millisecond
_STEERS = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters that JSON leaves as they are, and those that change the text direction."""
_NARROWEST = 24  # columns: a cell of prose narrower than this is hard to read


class Styled(str):
    """Text in a colour, `bold` or `dim`, if the terminal can show it."""

    style: str

    def __new__(cls, text: str, style: str) -> "Styled":
        self = super().__new__(cls, text)
        self.style = style
        return self


class Column(Struct, frozen=True):
    """A column of a table; a table whose headings are all empty has no heading line."""

    heading: str = ""
    right: bool = False
    is_id: bool = False  # may be shortened to a unique beginning
    prose: bool = False  # may be broken into lines, between words
    label: str = ""  # before the value, if a row takes several lines; else a number's heading
    clings: bool = False  # stays on one line with the cell before it


class Table(Struct, frozen=True):
    """Rows for people. A row that does not fit is broken into lines, never cut."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


class Fields(Struct, frozen=True):
    """Names with their values, one per line; a value of None is left out."""

    rows: Iterable[tuple[str, str | None]]


class Csv(Struct, frozen=True):
    """Rows for programs, on standard output."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]


class Aside(Struct, frozen=True):
    """A line for standard error."""

    text: str


Part = str | Table | Fields | Csv | Aside


class Result(Struct, frozen=True):
    """A command's result: `data` for --json; `text` for people, not iterated for --json."""

    data: object
    text: Iterable[Part] = ()
    code: int = 0
    error: str = ""  # for standard error, after the rest; the exit code is then 1
    one_line: bool = False  # JSON without line breaks


def show(result: Result, *, as_json: bool) -> int:
    """Print a command's result; return its exit code."""
    if as_json:
        print_json(result.data, one_line=result.one_line)
    else:
        print_text(result.text)
    if result.error:
        fail(result.error)
    return result.code


def print_text(parts: Iterable[Part], *, err: bool = False) -> None:
    """Print for people on standard output, or on standard error, where an `Aside` always goes.

    Control characters are escaped, so that foreign text cannot control the terminal.
    """
    width = screen_width(sys.stderr if err else sys.stdout)
    for part in parts:
        match part:
            case Aside():
                click.echo(_safe(part.text), err=True)
            case Table():
                _print_lines(table_lines(part, width), err)
            case Fields():
                _print_lines(_field_lines(part, width), err)
            case Csv():
                if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the terminal's encoding
                    sys.stdout.reconfigure(encoding="utf-8")
                rows = csv.writer(sys.stdout, lineterminator="\n")
                rows.writerow(part.columns)
                rows.writerows(part.rows)
            case _:
                click.echo(_styled(_safe(part), part), err=err)


def _print_lines(lines: Iterable[str], err: bool) -> None:
    for line in lines:
        click.echo(line, err=err)


def screen_width(stream: TextIO | None = None) -> int:
    """Return the columns of the terminal; for a pipe, more than a line needs."""
    if (stream or sys.stdout).isatty() or "COLUMNS" in os.environ:
        return max(shutil.get_terminal_size().columns, 20)
    return 300


def table_lines(table: Table, width: int) -> Iterator[str]:
    """Yield a table's lines. If it is too wide, shorten ids, then wrap prose, then stack rows."""
    columns = table.columns
    rows = [[_safe(cell) for cell in row] for row in table.rows]
    heading = [column.heading for column in columns]
    above = [heading] if any(heading) else []
    widths = _widths([*above, *rows])
    if not _fits(widths, width):
        rows = _with_short_ids(columns, rows)
        widths = _widths([*above, *rows])
    prose = [at for at, column in enumerate(columns) if column.prose]
    if not _fits(widths, width) and prose:
        others = sum(size for at, size in enumerate(widths) if at not in prose)
        room = (width - others - len(_GAP) * (len(widths) - 1)) // len(prose)
        if room >= _NARROWEST:
            widths = [min(s, room) if at in prose else s for at, s in enumerate(widths)]
    if not _fits(widths, width):
        for row in rows:
            yield from _stacked(columns, row, width)
        return
    for row in [*above, *rows]:
        cells = [
            _wrapped(cell, widths[at]) if at in prose else [cell] for at, cell in enumerate(row)
        ]
        for line in zip_longest(*cells, fillvalue=""):
            yield _GAP.join(
                _styled(_padded(text, size, column), cell)
                for text, size, column, cell in zip(line, widths, columns, row, strict=True)
            ).rstrip()


def _fits(widths: Sequence[int], width: int) -> bool:
    return sum(widths) + len(_GAP) * (len(widths) - 1) <= width


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_cells, column)) for column in zip(*rows, strict=True)]


def with_rich() -> None:
    """Allow importing rich, which is blocked so that structlog does not load it for nothing."""
    if sys.modules.get("rich", sys) is None:
        del sys.modules["rich"]


def _cells(text: str) -> int:
    with_rich()
    from rich.cells import cell_len  # only for a table

    return cell_len(text)


def _padded(text: str, size: int, column: Column) -> str:
    blank = " " * (size - _cells(text))
    return blank + text if column.right else text + blank


def _stacked(columns: Sequence[Column], row: Sequence[str], width: int) -> Iterator[str]:
    """Yield a row on as many lines as it needs, with its cells whole and in order."""
    pieces: list[tuple[str, int]] = []  # with their widths
    for column, cell in zip(columns, row, strict=True):
        if not cell:
            continue
        label = column.label or (column.heading if column.right else "")
        text = f"{label} {cell}" if label else str(cell)
        piece, size = _styled(text, cell), _cells(text)
        if column.clings and pieces:
            before, taken = pieces.pop()
            piece, size = f"{before} {piece}", taken + 1 + size
        pieces.append((piece, size))
    line, used = "", 0
    for piece, size in pieces:
        if not line:
            line, used = piece, size
        elif used + len(_GAP) + size > width:
            yield line
            line, used = "    " + piece, 4 + size
        else:
            line, used = line + _GAP + piece, used + len(_GAP) + size
    yield line


def _field_lines(fields: Fields, width: int) -> Iterator[str]:
    rows = [(_safe(name), _safe(value)) for name, value in fields.rows if value is not None]
    size = max((_cells(name) for name, _ in rows), default=0) + len(_GAP)
    for name, value in rows:
        for line in _wrapped(value, max(width - size, _NARROWEST)):
            yield f"{name:{size}}{line}"
            name = ""


def _safe(text: str) -> str:
    plain = printable(text)
    return Styled(plain, text.style) if isinstance(text, Styled) else plain


def _styled(text: str, like: str) -> str:
    """Return `text` in the style of `like`, if it has any and the terminal may show it."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if not isinstance(like, Styled) or not text or plain:
        return text
    if like.style in ("bold", "dim"):
        return click.style(text, **{like.style: True})
    return click.style(text, fg=like.style)


def _wrapped(text: str, width: int) -> list[str]:
    if _cells(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _with_short_ids(columns: Sequence[Column], rows: list[list[str]]) -> list[list[str]]:
    for at, column in enumerate(columns):
        if column.is_id:
            short = shortened([row[at] for row in rows])
            rows = [[*row[:at], short[row[at]], *row[at + 1 :]] for row in rows]
    return rows


def shortened(ids: Iterable[str]) -> dict[str, str]:
    """Return each id's shortest beginning that no other id here shares."""
    ordered = sorted(set(ids))
    short: dict[str, str] = {}
    before = ""
    for id, after in zip_longest(ordered, ordered[1:], fillvalue=""):
        needed = 1 + max(_common(before, id), _common(id, after))
        short[id] = id[: max(needed, _SHORTEST_ID)]
        before = id
    return short


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print `value` as JSON: records as objects, times in ISO 8601, sets sorted."""
    click.echo(json_bytes(value, indent=None if one_line else 2))


def json_bytes(value: object, *, indent: int | None = 2) -> bytes:
    """Return `value` as `print_json` prints it."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=indent)
    text = _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    # An undecodable octet of an address becomes \udcXX, which is JSON's own escape.
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Struct):
        return structs.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


@contextmanager
def progress(label: str, octets: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function to call with the octets and lines done so far; silent off a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, lines: None
        return
    with_rich()
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[count]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(label), total=octets, count="")
        start = time.monotonic()

        def show(done: int, lines: int | None) -> None:
            rate = (lines or 0) / max(time.monotonic() - start, 0.001)
            count = "" if lines is None else f"{lines:,} lines, {rate:,.0f}/s"
            bar.update(task, completed=done, count=count)

        yield show


@contextmanager
def verify_progress(octets: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the octets verified since the last call."""
    done = 0
    with progress("verify", octets) as show:

        def looked(more: int) -> None:
            nonlocal done
            done += more
            show(done, None)

        yield looked
