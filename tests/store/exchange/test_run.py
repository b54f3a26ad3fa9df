"""Imports of files in any state: good lines are stored, bad ones rejected, each once."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.exchange import run
from smtpproxy.store.exchange.lines import MAX_LINE, ImportFault
from smtpproxy.store.exchange.run import format_of
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sqlite import SqliteStore
from tests.kit.soak import times
from tests.store.exchange.importing import FILE_TIME, Importing

HEADER = b"address,scope,origin,since,note\n"
GOOD = b"%s@people.example,all,complaint,2026-01-01T00:00:00Z,\n"


def line(name: str) -> bytes:
    return GOOD % name.encode()


def test_the_rejected_file_has_number_reason_and_original_line(importing: Importing) -> None:
    content = HEADER + line("anna") + b"bert,all,complaint,,x\r\n\n" + b"carl@people.example,some\n"
    done = importing.suppressions(content)
    assert (done.lines, done.added, done.rejected) == (3, 1, 2)
    assert importing.rejected.splitlines() == [
        "address,scope,origin,since,note",
        "# line 3: address: there is no @: an address is local-part@domain",
        "bert,all,complaint,,x",
        "# line 5: scope: 'some' is not one of all, marketing, brand:NAME and purpose:NAME",
        "carl@people.example,some",
    ]


def test_the_rejected_file_can_be_corrected_and_imported(importing: Importing) -> None:
    importing.suppressions(HEADER + b"bert,all,complaint,,\n")
    mended = importing.rejected.replace("bert,", "bert@people.example,").encode()
    done = importing.suppressions(mended)
    assert (done.lines, done.added, done.rejected) == (1, 1, 0)
    assert importing.rejected == ""  # the first one has been removed


def test_importing_twice_changes_nothing(importing: Importing) -> None:
    content = HEADER + line("anna") + b"bert@people.example,all,complaint,,\n" + line("anna")
    first, second = importing.suppressions(content), importing.suppressions(content)
    assert (first.added, first.unchanged) == (2, 1)
    assert (second.added, second.changed, second.unchanged) == (0, 0, 3)


def test_byte_order_marks_line_ends_and_blank_lines_are_accepted(importing: Importing) -> None:
    content = b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"\r\n  \n\t\r\n"
    content += line("anna").replace(b"\n", b"\r\n") + b"\n\n" + line("bert").strip()
    done = importing.suppressions(content)
    assert (done.lines, done.added, done.rejected) == (2, 2, 0)


def test_concatenated_files_are_read(importing: Importing) -> None:
    one = b"\xef\xbb\xbf" + HEADER
    done = importing.suppressions(one + line("anna") + one + line("bert"))
    assert (done.added, done.rejected) == (2, 0)


def test_a_line_in_another_encoding_is_rejected(importing: Importing) -> None:
    good = "é@people.example,all,manual,,façade\n".encode()
    done = importing.suppressions(HEADER + good + good.decode().encode("latin-1") + line("anna"))
    assert (done.added, done.rejected) == (2, 1)
    assert (
        "# line 3: not UTF-8 (octet 0xe9 at place 1): save the file as UTF-8" in importing.rejected
    )
    assert (
        b"\xe9@people.example,all,manual,,fa\xe7ade\n"
        in importing.path.with_name("file.rejected").read_bytes()
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"PK\x03\x04" + b"\x00" * 100, "save it as CSV"),
        (b"\x1f\x8b" + b"\x00" * 100, "unpack"),
        (
            b"address,Address,scope\nanna@people.example,x,all\n",
            "line 1: the header has address more",
        ),
        (b"mail,scope\nanna@people.example,all\n", "no column `address`"),
        (b'"address,scope\nanna@people.example,all\n', "header cannot be read"),
        (
            b'{"address":"anna@people.example"}\n',
            "this is NDJSON (one JSON object a line), not CSV",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_rejected_with_the_reason(
    importing: Importing, content: bytes, part: str
) -> None:
    with pytest.raises(ImportFault) as caught:
        importing.suppressions(content)
    assert part in str(caught.value)
    assert importing.count() == (0, 0)


def test_an_empty_file_is_not_an_error(importing: Importing) -> None:
    assert importing.suppressions(b"").lines == 0
    assert importing.contacts(b"", "csv").lines == 0
    assert importing.contacts(b"\n\n").lines == 0


def test_without_a_header_columns_are_in_the_default_order(importing: Importing) -> None:
    done = importing.suppressions(line("anna") + line("bert"))
    assert (done.added, done.rejected) == (2, 0)


def test_columns_may_be_reordered_or_missing(importing: Importing) -> None:
    content = b'id;Origin;"Address";since\n7;external;anna@people.example;2026-01-01\n8\n'
    done = importing.suppressions(content, scope="marketing")
    assert (done.added, done.rejected) == (1, 1)
    (found,) = importing.suppressed("anna@people.example")
    assert (found.scope, found.origin) == ("marketing", Origin.EXTERNAL)


def test_a_bare_date_means_the_end_of_that_day(importing: Importing) -> None:
    """An unsubscribe on a day counts after every consent of that day."""
    importing.suppressions(HEADER + b"anna@people.example,all,unsubscribe,2026-01-01,\n")
    (found,) = importing.suppressed("anna@people.example")
    assert found.since == datetime(2026, 1, 1, 23, 59, 59, 999999, tzinfo=UTC)


def test_without_since_the_file_time_counts(importing: Importing) -> None:
    importing.suppressions(HEADER + b"anna@people.example,all,unsubscribe,,by phone\n")
    assert importing.suppressed("anna@people.example") == [
        Suppression("all", Origin.UNSUBSCRIBE, FILE_TIME, note="by phone")
    ]


@pytest.mark.parametrize(
    ("cells", "part"),
    [
        (b"anna@people.example,,complaint,,", "scope: missing; fill it in, or use --scope"),
        (b"anna@people.example,purpose:,complaint,,", "scope"),
        (b"anna@people.example,Marketing,complaint,,", "scope"),
        (
            b"anna@people.example,all,,,",
            "origin: missing; fill it in, or use --origin: unsubscribe",
        ),
        (b"anna@people.example,all,spam,,", "origin: 'spam'"),
        (b"anna@people.example,all,complaint,1.3.2025,", "since: '1.3.2025' is not a time"),
        (
            b"anna@people.example,all,complaint,2025-03-01 10:00:00,",
            "since: '2025-03-01 10:00:00' has no",
        ),
        (b"anna@people.example,all,complaint,,a,b", "6 cells, but the header has 5"),
        (b"hmac:01234567:00:00,all,complaint,,", "not a key text"),
        (b"hmac:01234567:" + b"0" * 32 + b":" + b"0" * 64 + b",all,complaint,,", "another key"),
    ],
)
def test_faults_are_named(importing: Importing, cells: bytes, part: str) -> None:
    done = importing.suppressions(HEADER + cells + b"\n" + line("bert"))
    assert (done.added - done.refusals, done.rejected) == (1, 1)
    assert part in importing.rejected


def test_suppressions_as_ndjson(importing: Importing) -> None:
    content = b"""
{"address":"anna@people.example","scope":"purpose:offers","origin":"objection","since":"2026-01-01T00:00:00Z","note":null}
{"address":"bert@people.example","scope":"all","origin":"manual"}
{"address":"carl@people.example","scope":"all","origin":"manual","until":"2027"}
{"address":7}
"""
    done = importing.suppressions(content, "ndjson")
    assert (done.added, done.rejected, done.refusals) == (3, 2, 1)
    assert "unknown field `until`; the fields are address, scope" in importing.rejected
    (found,) = importing.suppressed("anna@people.example")
    assert found == Suppression(
        "purpose:offers", Origin.OBJECTION, datetime(2026, 1, 1, tzinfo=UTC)
    )


class TestQuotes:
    def test_quoted_cells_may_hold_anything(self, importing: Importing) -> None:
        content = HEADER + b'anna@people.example,all,manual,,"one, ""two""\n\nthree"\n'
        done = importing.suppressions(content + line("bert"))
        assert (done.added, done.rejected) == (2, 0)
        (found,) = importing.suppressed("anna@people.example")
        assert found.note == 'one, "two"\n\nthree'

    def test_a_quote_inside_a_cell_is_literal(self, importing: Importing) -> None:
        importing.suppressions(HEADER + b'anna@people.example,all,manual,,5" screen\n')
        (found,) = importing.suppressed("anna@people.example")
        assert found.note == '5" screen'

    @pytest.mark.parametrize("after", [1, 40, 200])
    def test_an_unclosed_quote_costs_only_its_own_line(
        self, importing: Importing, after: int
    ) -> None:
        others = b"".join(line(f"user{number}") for number in range(after))
        content = HEADER + b'anna@people.example,all,manual,,"open\n' + others
        done = importing.suppressions(content)
        assert (done.added, done.rejected, done.refusals) == (after + 1, 1, 1)
        assert "# line 2: a quote is opened and not closed" in importing.rejected

    def test_two_unclosed_quotes_cost_two_lines(self, importing: Importing) -> None:
        broken = b'%s@people.example,all,manual,,"open\n'
        content = HEADER + broken % b"anna" + line("bert") + broken % b"carl" + line("dora")
        done = importing.suppressions(content)
        assert (done.added, done.rejected, done.refusals) == (4, 2, 2)

    def test_an_unclosed_quote_before_an_overlong_line(self, importing: Importing) -> None:
        broken = b'anna@people.example,all,manual,,"open\n'
        content = HEADER + broken + b"x" * (MAX_LINE + 5) + b"\n" + line("bert")
        done = importing.suppressions(content)
        assert (done.added, done.rejected, done.refusals) == (2, 2, 1)
        assert "x" * (MAX_LINE + 5) + "\n" in importing.rejected


def test_an_overlong_line_is_rejected_whole(importing: Importing) -> None:
    """In bounded memory: 100 MB on one line, both in the file and in FILE.rejected."""
    size = 100 * 1024 * 1024
    importing.path.write_bytes(b"")
    with importing.path.open("wb") as file:
        file.write(b'{"address":"anna@people.example"}\n{"address":"')
        file.truncate(size)
        file.seek(size)
        file.write(b'"}\n{"address":"bert@people.example"}\n')
    with importing.path.open("rb") as file:
        tracemalloc.start()
        done = importing.import_open(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (done.lines, done.added, done.rejected) == (3, 2, 1)
    assert peak < 16 * 1024 * 1024
    rejected = importing.path.with_name("file.rejected")
    assert rejected.stat().st_size > size
    with rejected.open("rb") as file:
        assert file.readline() == b"# line 2: longer than 1048576 octets: split it up\n"
        assert file.read(20) == b'{"address":"' + b"\x00" * 8
    rejected.unlink()
    importing.path.unlink()


def test_long_lines_make_small_batches(
    importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BATCH_OCTETS", 1000)
    sizes: list[int] = []
    put = SqliteStore.put_contacts

    async def counting(store, batch):  # type: ignore[no-untyped-def]
        sizes.append(len(batch))
        return await put(store, batch)

    monkeypatch.setattr(SqliteStore, "put_contacts", counting)
    padding = "x" * 150
    lines = [f'{{"address":"user{n}@people.example","tags":["{padding}"]}}' for n in range(20)]
    assert importing.contacts("\n".join(lines).encode()).added == 20
    assert len(sizes) > 3


def test_committed_lines_are_counted_even_if_the_store_then_fails(
    importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BATCH_ROWS", 2)
    put = SqliteStore.add_suppressions

    async def failing(store, batch):  # type: ignore[no-untyped-def]
        if any("carl" in one.address for one in batch):
            raise StoreUnavailable("full")
        return await put(store, batch)

    monkeypatch.setattr(SqliteStore, "add_suppressions", failing)
    content = HEADER + b"".join(map(line, ["anna", "bert", "carl", "dora"]))
    with pytest.raises(StoreUnavailable):
        importing.suppressions(content)
    assert importing.count() == (0, 2)


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("people.csv", b"{", "csv"),
        ("people.CSV.rejected", b"{", "csv"),
        ("people.jsonl", b"address", "ndjson"),
        ("people.ndjson.rejected", b"# line 3: x", "ndjson"),
        ("people", b'\n{"address"', "ndjson"),
        ("people", b'\xef\xbb\xbf{"address"', "ndjson"),
        ("people.2026-01", b"address,scope", "csv"),
    ],
)
def test_the_format_is_detected(name: str, start: bytes, expected: str) -> None:
    assert format_of(Path(name), start) == expected


ANNA = b"anna@people.example"
BERT = b'{"address":"bert@people.example"'
PIECES = st.sampled_from(
    [
        *[bytes([octet]) for octet in b'\n\r",;\t\x00\xff{}[\\ '],
        *[b"\r\n", b'""', b"\xef\xbb\xbf", b"# line 1: ", "é".encode(), b"all", b"2026-01-01"],
        *[HEADER, ANNA, ANNA + b",all,manual,,"],
        *[BERT + b"}", BERT + b',"scope":"all","origin":"manual"}'],
    ]
)


@settings(deadline=None, max_examples=times(50, 5_000))
@given(
    content=st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=30).map(b"".join),
    file_format=st.sampled_from(["csv", "ndjson"]),
    kind=st.sampled_from(["contacts", "suppressions"]),
)
def test_any_bytes_can_be_imported(content: bytes, file_format: run.Format, kind: str) -> None:
    """Invariant: an import ends, and every line it counts is stored or rejected; a second
    import of the same file adds and changes nothing."""
    with TemporaryDirectory() as folder:
        importing = Importing(Path(folder))
        take = importing.contacts if kind == "contacts" else importing.suppressions
        try:
            first = take(content, file_format)
        except ImportFault:
            return
        taken = first.added + first.changed + first.unchanged
        assert first.lines == taken + first.rejected - first.refusals
        assert importing.rejected.count("# line ") >= first.rejected
        second = take(content, file_format)
        assert (second.added, second.changed) == (0, 0)
        assert second.rejected == first.rejected


def test_imports_only_move_a_suppression_forward(importing: Importing) -> None:
    for days in (0, 2, 1):
        since = (FILE_TIME + timedelta(days=days)).isoformat()
        importing.suppressions(HEADER + f"anna@people.example,all,unsubscribe,{since},\n".encode())
    (found,) = importing.suppressed("anna@people.example")
    assert found.since == FILE_TIME + timedelta(days=2)
    assert importing.count() == (0, 1)


@pytest.mark.parametrize(
    ("cell", "stored"),
    [
        (b"  anna@people.example  ", "anna@people.example"),
        ("anna@münchen.example".encode(), "anna@xn--mnchen-3ya.example"),
        (b'"""anna bell""@people.example"', '"anna bell"@people.example'),
        (b"anna bell@people.example", None),
        (b"anna@people.example bert@people.example", None),
    ],
)
def test_addresses_with_spaces_quotes_and_idn_are_accepted(
    importing: Importing, cell: bytes, stored: str | None
) -> None:
    done = importing.suppressions(HEADER + cell + b",all,complaint,,\n" + line("bert"))
    assert (done.added, done.rejected) == ((2, 0) if stored else (1, 1))
    if stored:
        assert importing.suppressed(stored)
    else:
        assert "# line 2: address: " in importing.rejected
