"""Lists of addresses, plain or CSV, in any encoding: nothing is skipped silently."""

from pathlib import Path

import click
import pytest

from smtpproxy.cli.stores import AddressFile

ANNA, BERT = "anna@people.example", "bert@people.example"


def read(folder: Path, content: bytes) -> tuple[list[str], int]:
    path = folder / "list"
    path.write_bytes(content)
    listed = AddressFile(path)
    return [name for batch in listed.batches() for name in batch], listed.unreadable


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(
    "text",
    [
        f"{ANNA}\r\n\r\n# a comment\r\n{BERT.upper()}\r\n",
        f"Prénom;email\r\nZoé;{ANNA}\r\n;;\r\nBob;{BERT};\r\n",
        f"sep=,\nAddress,x\n{ANNA},1\n{BERT},2\n",
        f"email\n{ANNA}\n{BERT}\n",
        f"email,name\r{ANNA},Zoé\r{BERT},Bob\r",
    ],
)
def test_addresses_are_read_from_any_list(tmp_path: Path, text: str, encoding: str) -> None:
    assert read(tmp_path, text.encode(encoding)) == ([ANNA, BERT], 0)


def test_whole_domains_are_read_too(tmp_path: Path) -> None:
    assert read(tmp_path, b"@example.com\n*.example.org\n")[0] == ["@example.com", "*.example.org"]


def test_unreadable_lines_are_counted_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = f"{ANNA}\nnobody\n".encode() + b"caf\xe9@people.example\na\0b@people.example\n"
    assert read(tmp_path, content) == ([ANNA], 3)
    error = capsys.readouterr().err
    assert "line 2: there is no @" in error
    assert "line 3: not UTF-8" in error
    assert "line 4: it contains a NUL octet" in error


def test_a_table_without_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="no column address or email"):
        read(tmp_path, b"name,tel\nAnna,1\n")
