"""The formats that a list may have, and how a verdict is appended to each of its lines."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO, Literal, TypeVar

import msgspec
from msgspec import Struct

from smtpproxy.mail.address import AddressError, recipient
from smtpproxy.mail.mailboxes import entered
from smtpproxy.scrub.verdicts import LineVerdict
from smtpproxy.store.exchange.encodings import Decoder
from smtpproxy.store.exchange.lines import (
    ImportFault,
    Line,
    Lines,
    Read,
    Rejected,
    check_escapes,
    checked_address,
    decoded,
    read_lines,
)
from smtpproxy.store.exchange.rows import (
    Header,
    Row,
    bare_address,
    column_key,
    first_line,
    read_header,
    read_rows,
    rejected_header,
    row_writer,
)

Format = Literal["csv", "ndjson", "plain"]

ADDED = ("verdict", "reason", "basis", "since", "duplicate", "profiling_objected")
"""The columns added to the list, replacing those of an earlier scrub."""

_ALWAYS_ADDED = ADDED[:5]  # by all versions

Source = TypeVar("Source", Line, Row)

_ADDRESS_NAMES = ("address", "email")
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True):
    """One line: `start` is its output, up to where the verdict follows."""

    address: str  # canonical
    start: bytes


Ending = Callable[[LineVerdict], bytes]


class AddressList(Struct, frozen=True):
    """An opened list. The output is `header`, then each line's start and ending."""

    form: Format
    items: Iterator[Read[Entry] | Rejected]
    ending: Ending
    header: bytes | None = None  # of the output, without its end
    original_header: bytes | None = None  # of the list, for its FILE.rejected
    decoder: Decoder | None = None  # how it is read; the output is UTF-8


def open_list(file: BinaryIO, form: Format | None = None, column: str | None = None) -> AddressList:
    """Read a list; without `form`, its format is recognised by the first line.

    `column` has the address, a column of CSV or a field of NDJSON; by default the one named
    address or email, or the only one. Raises ImportFault if it cannot be determined.
    """
    lines = read_lines(file)
    first = first_line(lines)
    if first is None:
        return AddressList("plain", iter(()), _ending_of_csv(","), _added_header(b"address", ","))
    form = form or _form_of(first, column)
    lines.give_back([first])
    if form == "csv":
        return _csv_list(lines, column)
    if column is not None and form == "plain":
        raise ImportFault("it has one address per line and no columns: leave out --column")
    if form == "ndjson":
        lines.decoder.expect_utf8()
        items = _read(lines, _object_reader(column))
        return AddressList(form, items, _ending_of_object, decoder=lines.decoder)
    header = _added_header(b"address", ",")
    items = _read(lines, _plain_entry)
    return AddressList(form, items, _ending_of_csv(","), header, decoder=lines.decoder)


def _form_of(first: Line, column: str | None) -> Format:
    if first.content.lstrip().startswith(b"{"):
        return "ndjson"
    try:
        _address(decoded(first.content))
    except ValueError:
        return "csv"
    return "plain" if column is None else "csv"


def _address(text: str) -> str:
    """Return the canonical address. Raises ValueError with a text that does not hold it."""
    if not text.strip():
        raise ValueError("address: it is empty")
    try:
        return recipient(entered(text))
    except AddressError as error:
        raise ValueError(f"address: {error}") from None


def _read(
    items: Iterable[Source | Rejected], entry_of: Callable[[Source], Entry]
) -> Iterator[Read[Entry] | Rejected]:
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif not item.is_void:
            try:
                yield Read(item.number, entry_of(item), item.content)
            except ValueError as error:
                yield Rejected(item.number, str(error), (item.original,))


def _is_scrubbed(names: Collection[str], there_is: str) -> bool:
    """Return whether the list has the columns of an earlier scrub.

    Raises ValueError when it has only some of these names, so that they are the list's own.
    """
    taken = [name for name in ADDED if name in names]
    if taken and not all(name in names for name in _ALWAYS_ADDED):
        raise ValueError(f"{there_is} {taken[0]}, a name that scrub adds itself; rename it")
    return bool(taken)


# one address per line


def _plain_entry(line: Line) -> Entry:
    text = checked_address(decoded(line.content).strip(), line)
    return Entry(_address(text), _cells_written([text], ","))


# CSV


def _csv_list(lines: Lines, column: str | None) -> AddressList:
    known = _ADDRESS_NAMES if column is None else (column_key(column),)
    header = read_header(lines, known=known)
    assert header is not None
    place = address_place(header, column)
    delimiter = header.delimiter
    width = len(header.columns)
    try:
        whole = not _is_scrubbed(header.columns, f"line {header.number}: the header has a column")
    except ValueError as error:
        raise ImportFault(str(error)) from None
    kept = [i for i, name in enumerate(header.columns) if whole or name not in ADDED]
    mark, quote = delimiter.encode(), b'"'

    def entry(row: Row) -> Entry:
        address = _address(checked_address(bare_address(row.cells[place]), row))
        content = row.content
        # A row with all its cells and no quotes is written unchanged.
        if whole and quote not in content and content.count(mark) == width - 1:
            return Entry(address, content)
        return Entry(address, _cells_written([row.cells[i] for i in kept], delimiter))

    names = _cells_written([header.columns[i] for i in kept], delimiter)
    return AddressList(
        "csv",
        _read(read_rows(lines, header), entry),
        _ending_of_csv(delimiter),
        _added_header(names, delimiter),
        rejected_header(header),
        lines.decoder,
    )


def address_place(header: Header, column: str | None = None) -> int:
    """Return the index of the address cell: of `column`, of address or email, or the only one.
    Raises ImportFault if it cannot be determined."""
    line = header.number
    names = [column_key(name) for name in header.columns]
    listed = ", ".join(filter(None, header.columns))[:200]
    if column is not None:
        wanted = column_key(column)
        header.check_once(wanted.__eq__)
        if wanted in names:
            return names.index(wanted)
        raise ImportFault(f"line {line}: there is no column {column!r}, only {listed}")
    header.check_once(_ADDRESS_NAMES.__contains__)
    found = [names.index(name) for name in _ADDRESS_NAMES if name in names]
    if len(found) == 1:
        return found[0]
    if len(found) == 2:
        raise ImportFault(
            f"line {line}: there is a column address and a column email; "
            "name the one with the mail address with --column"
        )
    if len(names) == 1:
        return 0
    if any("@" in name for name in names):
        raise ImportFault(
            f"line {line}: it is an address, not a header; put a line with column names above it"
        )
    raise ImportFault(
        f"line {line}: there is no column address or email, only {listed}; "
        "name the one with the mail address with --column"
    )


def _added_header(start: bytes, delimiter: str) -> bytes:
    return start + (delimiter + delimiter.join(ADDED)).encode()


def _cells_written(cells: list[str], delimiter: str) -> bytes:
    # A line end within a cell is quoted only if it is one of the written line ends.
    return row_writer(delimiter, "\r\n")(cells).removesuffix("\r\n").encode()


def _ending_of_csv(delimiter: str) -> Ending:
    @lru_cache(maxsize=4096)
    def ending(judged: LineVerdict) -> bytes:
        verdict = judged.verdict
        marks = [
            "true" if mark else "false" for mark in (judged.duplicate, judged.profiling_objected)
        ]
        cells = (verdict.action, verdict.reason, verdict.basis or "", judged.since, *marks)
        return f"{delimiter}{delimiter.join(cells)}\n".encode()

    return ending


# NDJSON


def _object_reader(column: str | None) -> Callable[[Line], Entry]:
    names = (column,) if column is not None else _ADDRESS_NAMES

    def entry(line: Line) -> Entry:
        if line.is_guessed:
            raise ValueError("not UTF-8, which JSON has to be")
        decoded(line.content)  # msgspec does not check raw values
        check_escapes(line.content)
        try:
            fields = _decode(line.content)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a JSON object: {error}") from None
        raw = next((fields[name] for name in names if name in fields), None)
        if raw is None:
            raise ValueError(f"there is no field {' or '.join(names)}")
        try:
            address = _address(_decode_text(raw))
        except msgspec.MsgspecError:
            raise ValueError("address: not a text") from None
        if not _is_scrubbed(fields, "there is a field"):
            return Entry(address, line.content.rstrip()[:-1].rstrip())
        kept = {name: value for name, value in fields.items() if name not in ADDED}
        return Entry(address, _encode(kept)[:-1])

    return entry


@lru_cache(maxsize=4096)
def _ending_of_object(judged: LineVerdict) -> bytes:
    verdict = judged.verdict
    added = (
        verdict.action,
        verdict.reason,
        verdict.basis,
        judged.since or None,
        judged.duplicate,
        judged.profiling_objected,
    )
    return b"," + _encode(dict(zip(ADDED, added, strict=True)))[1:] + b"\n"
