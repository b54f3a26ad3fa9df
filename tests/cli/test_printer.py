"""Printing results: tables, prose, hostile text, CSV and JSON."""

import io
import json
from collections.abc import Iterator

import pytest

from smtpproxy.cli.printer import (
    Aside,
    Column,
    Csv,
    Fields,
    Result,
    Styled,
    Table,
    json_bytes,
    print_text,
    shortened,
    show,
    table_lines,
)

ID = "01JBZ4D5E6F7G8H9J0K1M2N3P4"
COLUMNS = [Column("id", is_id=True), Column("who"), Column("rows", right=True)]
ROWS = [(ID, "anna@people.example", "7"), ("01JBZ4D5E6F8" + ID[12:], "bo@people.example", "1,200")]


def test_a_table_that_fits_has_aligned_columns() -> None:
    assert list(table_lines(Table(COLUMNS, ROWS), 80)) == [
        "id                          who                   rows",
        f"{ID}  anna@people.example      7",
        "01JBZ4D5E6F8G8H9J0K1M2N3P4  bo@people.example    1,200",
    ]


def test_ids_are_shortened_but_stay_distinct() -> None:
    lines = list(table_lines(Table(COLUMNS, ROWS), 45))
    assert lines[1] == "01JBZ4D5E6F7  anna@people.example      7"
    assert shortened([ID, ID[:-1] + "Z", "02"]) == {
        ID: ID, ID[:-1] + "Z": ID[:-1] + "Z", "02": "02",
    }  # fmt: skip


def test_rows_that_do_not_fit_take_several_lines_with_every_cell_whole() -> None:
    assert list(table_lines(Table(COLUMNS, ROWS), 30)) == [
        "01JBZ4D5E6F7",
        "    anna@people.example",
        "    rows 7",
        "01JBZ4D5E6F8",
        "    bo@people.example",
        "    rows 1,200",
    ]


def test_prose_is_wrapped_between_words() -> None:
    table = Table([Column("name"), Column("why", prose=True)], [("spf", "one two " * 10)])
    lines = list(table_lines(table, 40))
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == "name why spf " + ("one two " * 10).strip()


def test_hostile_text_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bad = "\x1b[31mred\nline"
    print_text(
        [bad, Styled(bad, "green"), Aside(bad), Fields([(bad, bad)]), Table([Column()], [[bad]])]
    )
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out.count("\n") == 4
    assert err == "\\x1b[31mred\\nline\n"


@pytest.mark.parametrize(
    "steers", ["\x1b[2J", "\x7f", "\x9b2J", "\N{RIGHT-TO-LEFT OVERRIDE}", "\N{LINE SEPARATOR}"]
)
def test_nor_can_it_in_json(steers: str) -> None:
    text = json_bytes([steers, "é\N{EN DASH}\N{NO-BREAK SPACE}日"]).decode()
    assert steers not in text
    assert json.loads(text) == [steers, "é\N{EN DASH}\N{NO-BREAK SPACE}日"]
    assert '"é\N{EN DASH}\N{NO-BREAK SPACE}日"' in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("click._compat.should_strip_ansi", lambda *_: False)
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    for each in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(each, raising=False)
    print_text([Styled("good", "green")])
    assert capsys.readouterr().out == "\x1b[32mgood\x1b[0m\n"
    monkeypatch.setenv(name, value)
    print_text([Styled("good", "green"), Table([Column()], [[Styled("bad", "red")]])])
    assert capsys.readouterr().out == "good\nbad\n"


def test_everything_can_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(
        ["a", Styled("b", "bold"), Fields([("c", "d")]), Table([Column()], [["e"]])], err=True
    )
    assert capsys.readouterr() == ("", "a\nb\nc  d\ne\n")


def test_lines_are_not_wrapped_for_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_text([Table([Column(), Column()], [["x" * 120, "y" * 120]])])
    assert capsys.readouterr().out == f"{'x' * 120}  {'y' * 120}\n"


def test_csv_is_utf_8_without_wrapping(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_text([Csv(("a", "b"), [("1", "x,y")])])
    assert capsys.readouterr().out == 'a,b\n1,"x,y"\n'
    latin = io.TextIOWrapper(io.BytesIO(), "latin-1", "backslashreplace")
    monkeypatch.setattr("sys.stdout", latin)
    print_text([Csv(("a",), [("日é",)])])
    latin.seek(0)
    assert latin.buffer.read() == "a\n日é\n".encode()


def test_json_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(TypeError, match="object is not JSON"):
        json_bytes(object())


def test_text_is_not_built_if_json_is_requested(capsys: pytest.CaptureFixture[str]) -> None:
    def text() -> Iterator[str]:
        raise AssertionError
        yield

    assert show(Result({"a": 1}, text(), 3), as_json=True) == 3
    assert capsys.readouterr().out == '{\n  "a": 1\n}\n'
