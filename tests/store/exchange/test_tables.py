"""Spreadsheets and foreign JSON, read as tables."""

import gc
import io
import warnings
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.utils.datetime import CALENDAR_MAC_1904

from smtpproxy.store.exchange import tables
from smtpproxy.store.exchange.lines import ImportFault, Line, Rejected
from smtpproxy.store.exchange.mapping import Mapping
from smtpproxy.store.exchange.rows import is_error
from smtpproxy.store.exchange.tables import flat, read_table
from smtpproxy.store.exchange.times import Notation


def workbook(path: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def texts(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [line.content.decode() for line in read_table(file) if isinstance(line, Line)]


def test_cells_are_converted_to_the_text_a_mapping_expects(tmp_path: Path) -> None:
    at = datetime.fromisoformat("2025-01-02T03:04")
    path = workbook(
        tmp_path / "people.xlsx",
        [
            ["Adresse", "Depuis", "Vu le", "n", "x", "Note"],
            [
                "anna@people.example",
                date(2024, 12, 31),
                at,
                3.0,
                True,
            ],
            [],
            ["bert@people.example", None, None, 1.5, None, "deux\nlignes, dit-il"],
        ],
    )
    assert texts(path) == [
        "Adresse,Depuis,Vu le,n,x,Note",
        "anna@people.example,2024-12-31,2025-01-02T03:04:00,3,true",
        "",
        'bert@people.example,,,1.5,,"deux\nlignes, dit-il"',
    ]


@pytest.mark.parametrize("pattern", ["excel", "iso|excel", "iso"])
def test_the_1904_date_system_is_understood(tmp_path: Path, pattern: str) -> None:
    """As in Excel for Mac: dates are right; bare numbers come out four years later."""
    book = openpyxl.Workbook()
    book.epoch = CALENDAR_MAC_1904
    for row in (["address", "given"], ["anna@people.example", date(2025, 3, 1)], ["x", 44255]):
        book.active.append(row)
    book.save(tmp_path / "people.xlsx")
    assert texts(tmp_path / "people.xlsx")[1] == "anna@people.example,2025-03-01"
    mapping = Mapping({"address": "address"}, notation=Notation(pattern))
    with (tmp_path / "people.xlsx").open("rb") as file:
        if pattern == "iso":
            assert len(list(read_table(file, mapping))) == 3
            return
        with pytest.raises(ImportFault, match="counts days from 1904"):
            read_table(file, mapping)


@pytest.mark.filterwarnings("error")
def test_an_impossible_date_is_reported_as_the_spreadsheets_error(tmp_path: Path) -> None:
    path = workbook(tmp_path / "people.xlsx", [["address", "given"], ["x", 10**9]])
    book = openpyxl.load_workbook(path)
    book.active["B2"].number_format = "yyyy-mm-dd"
    book.save(path)
    assert texts(path) == ["address,given", "x,#VALUE!"]


def test_a_formula_without_a_stored_result_is_reported_as_the_spreadsheets_error(
    tmp_path: Path,
) -> None:
    rows = [["email", "Opt-out", "x"], ["a@b.example", '=IF(TRUE, "yes", "no")', 1]]
    found = texts(workbook(tmp_path / "people.xlsx", rows))
    assert found == ["email,Opt-out,x", "a@b.example,#FORMULA!,1"]
    assert is_error("#FORMULA!")


def test_a_formula_with_an_empty_result_is_an_empty_cell(tmp_path: Path) -> None:
    whole = workbook(tmp_path / "whole.xlsx", [["a", "b", "c"], [1, '=""', 2]])
    path = tmp_path / "people.xlsx"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<c r="B2">', b'<c r="B2" t="str">'))
    assert texts(path) == ["a,b,c", "1,,2"]


def test_the_first_sheet_with_rows_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "people.xlsx", [], [["address"]], [["other"]])
    with path.open("rb") as file:
        lines = read_table(file)
    assert lines.notices == ("the sheet 'Sheet1' is read; not read: Sheet, Sheet2",)
    assert texts(path) == ["address"]


def test_an_empty_workbook_has_no_lines(tmp_path: Path) -> None:
    assert texts(workbook(tmp_path / "people.xlsx", [])) == []


def archive(**parts: bytes) -> io.BufferedReader:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return io.BufferedReader(io.BytesIO(raw.getvalue()))  # type: ignore[arg-type]


def test_a_broken_archive_is_rejected_and_its_copy_closed() -> None:
    gc.collect()  # files that other tests left open
    with warnings.catch_warnings(action="always", record=True) as found:
        with pytest.raises(ImportFault, match="cannot be read"):
            read_table(archive(letter=b"x"))
        gc.collect()
    assert not [each for each in found if each.category is ResourceWarning]


def test_an_archive_that_would_fill_memory_is_rejected() -> None:
    with pytest.raises(ImportFault, match="too large"):
        read_table(archive(strings=b"\0" * (257 << 20)))


def sheet_of(path: Path, row: str) -> Path:
    """A spreadsheet with this XML as its second row."""
    plain = workbook(path.with_name("plain.xlsx"), [["address"]])
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            text = read.read(name)
            if name.startswith("xl/worksheets/"):
                text = text.replace(b"</sheetData>", row.encode() + b"</sheetData>")
            written.writestr(name, text)
    return path


@pytest.mark.timeout(60)
def test_a_row_number_out_of_range_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MOST_ROWS", 1_000)
    row = '<row r="2000000000"><c r="A2000000000"><v>1</v></c></row>'
    with pytest.raises(ImportFault, match="more than 1,000 rows"):
        texts(sheet_of(tmp_path / "people.xlsx", row))


def test_a_cell_out_of_range_costs_its_row(tmp_path: Path) -> None:
    cells = '<c r="A2" t="str"><v>a@people.example</v></c><c r="XFD2"><v>1</v></c>'
    path = sheet_of(tmp_path / "people.xlsx", f'<row r="2">{cells}</row>')
    with path.open("rb") as file:
        found = list(read_table(file))
    assert [type(one) for one in found] == [Line, Rejected]
    assert "beyond column 1,000" in found[1].reason  # type: ignore[union-attr]


def test_styles_that_would_fill_memory_are_rejected() -> None:
    with pytest.raises(ImportFault, match="too large; save it as CSV"):
        read_table(archive(**{"xl/styles.xml": b" " * (9 << 20)}))


@pytest.mark.parametrize("part", ["xl/sharedStrings.xml", "xl/workbook.xml", "docProps/core.xml"])
def test_no_part_of_the_archive_evades_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    path = tmp_path / "people.xlsx"
    plain = workbook(tmp_path / "plain.xlsx", [["address"], ["a@x.example"]])
    elsewhere = part if part == "docProps/core.xml" else "xl/worksheets/elsewhere.xml"
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            text = read.read(name)
            if name == "[Content_Types].xml":
                text = text.replace(f'"/{part}"'.encode(), f'"/{elsewhere}"'.encode())
            if name == "xl/_rels/workbook.xml.rels":
                written.writestr("xl/worksheets/_rels/elsewhere.xml.rels", text)
            more = b" " * 20_000 if name == part else b""
            written.writestr(elsewhere if name == part else name, text + more)
    assert texts(path) == ["address", "a@x.example"]
    monkeypatch.setattr(tables, "_MOST_PARSED", 10_000)
    monkeypatch.setattr(tables, "_MOST_IN_MEMORY", 10_000)
    monkeypatch.setattr(tables, "_check_size", lambda parts: None)
    with pytest.raises(ImportFault, match="too large; save it as CSV"):
        texts(path)


def test_a_truncated_archive_is_rejected(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "people.xlsx", [["address"], *[[f"{n}@x.example"] for n in range(99)]]
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImportFault, match="cannot be read"), path.open("rb") as file:
        read_table(file)


def test_nested_keys_are_joined_with_dots() -> None:
    line = b'{"id":1,"properties":{"email":"a@b.example","tags":["x","y"],"ok":false,"no":null}}'
    assert flat(line) == [
        ("id", "1"),
        ("properties.email", "a@b.example"),
        ("properties.tags", "x|y"),
        ("properties.ok", "false"),
        ("properties.no", ""),
    ]


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_a_line_that_is_not_an_object_is_rejected(content: bytes) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        flat(content)


def test_json_becomes_rows_with_the_columns_of_the_mapping() -> None:
    mapping = Mapping({"properties.email": "address", "seen": "last_activity_at"})
    file = io.BufferedReader(
        io.BytesIO(b'{"properties":{"Email":"a@b.example"},"x":1}\n\n{"Seen":"2025-01-01"}\n')
    )  # type: ignore[arg-type]
    lines = [line.content.decode() for line in read_table(file, mapping) if isinstance(line, Line)]
    assert lines == ["properties.email,seen", "a@b.example,", "", ",2025-01-01"]


def test_a_key_repeated_in_any_case_is_rejected() -> None:
    """Nobody can tell which counts: one may refuse what the other agrees to."""
    mapping = Mapping({"email": "address", "tags": "tags"})
    content = b'{"email":"a@b.example","Tags":"restricted","tags":"","x":1,"X":2}\n'
    _, row = read_table(io.BufferedReader(io.BytesIO(content)), mapping)  # type: ignore[arg-type]
    assert isinstance(row, Rejected)
    assert row.reason == "'tags' appears twice in one object; give it once"
    _, row = read_table(io.BufferedReader(io.BytesIO(content.replace(b"Tags", b"y"))), mapping)  # type: ignore[arg-type]
    assert isinstance(row, Line)
