"""A no in a record that is rejected for something else: it holds, wherever it can be read."""

import json
from typing import Any

import pytest

from smtpproxy.store.exchange.contact_ndjson import EVERY_PURPOSE
from smtpproxy.store.exchange.lines import read_lines
from smtpproxy.store.exchange.rows import read_header, read_rows
from tests.store.exchange.importing import FILE_TIME, Importing

ANNA = "anna@people.example"
AT = "2025-01-01T00:00:00Z"
NO = {"purpose": "news", "withdrawn_at": AT}
WISH = {"purpose": "news", "frequency": "weekly", "at": AT}


def refused(importing: Importing, content: bytes, file_format: Any = "ndjson") -> set[str]:
    """What is refused by a line of which nothing else is taken in."""
    done = importing.contacts(content, file_format)
    assert (done.rejected, done.lines) == (1, 1)
    if not done.refusals:
        assert done.added == 0
        return set()
    contact = importing.contact(ANNA)
    assert done.refusals == 1
    assert all(act.withdrawal for act in contact.acts)
    told = {act.purpose for act in contact.acts} | set(contact.tags)
    told |= {f"{wish.frequency} {wish.purpose}" for wish in contact.preferences}
    return told | ({"profiling"} if contact.profiling_objected_at else set())


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"consents": [NO], "source": "unheard of"}, {"news"}),
        ({"consents": [NO, {"purpose": "offers", "given_at": "soon"}]}, {"news"}),
        ({"consents": [NO, {"withdrawn_at": AT}, 7], "tags": 3}, {"news", EVERY_PURPOSE}),
        ({"consents": [{"withdrawn_at": AT, "purpose": None}]}, {EVERY_PURPOSE}),
        ({"consents": [{"withdrawn_at": AT, "purpose": "x" * 201}]}, {EVERY_PURPOSE}),
        ({"tags": ["restricted", 3, "vip"]}, {"restricted", "vip"}),  # which restrict is not known
        ({"preferences": [WISH], "source": "unheard of"}, {"weekly news"}),
        (
            {"preferences": [WISH, {**WISH, "purpose": "offers", "at": 1}]},
            {"weekly news", "weekly offers"},
        ),
        ({"preferences": [{**WISH, "frequency": "never"}, WISH]}, {"weekly news"}),
        ({"preferences": [{**WISH, "at": "no"}, WISH], "tags": 3}, {"weekly news"}),
        ({"preferences": [{**WISH, "frequency": "all"}], "tags": 3}, set()),
        ({"preferences": [{**WISH, "frequency": "never"}, {**WISH, "brand": 7}]}, set()),
        ({"consents": [{**NO, "withdrawn_at": "2025-02-31"}]}, {"news"}),
        ({"consents": [{**NO, "withdrawn_at": 1735689600}]}, {"news"}),
        ({"consents": [{**NO, "withdrawn_at": True}]}, {"news"}),
        ({"consents": [{**NO, "brand": 7}]}, {"news"}),
        ({"consents": [NO], "unknown": 1, "brand": None}, {"news"}),
        ({"consents": [NO], "unknown": 1, "brand": "shop"}, {"news"}),
        ({"profiling_objected_at": AT, "source": "unheard of"}, {"profiling"}),
        ({"profiling_objected_at": "31/12/2024"}, {"profiling"}),
        ({"profiling_objected_at": AT, "consents": [{**NO, "given_at": 1}]}, {"news", "profiling"}),
        ({"consents": [{**NO, "withdrawn_at": "no"}]}, set()),
        ({"consents": [{**NO, "withdrawn_at": False}]}, set()),
        ({"consents": [{**NO, "withdrawn_at": None}]}, set()),
        ({"consents": {"news": AT}}, set()),
        ({"tags": 3}, set()),
    ],
)
def test_of_a_line_of_json(importing: Importing, told: dict[str, Any], found: set[str]) -> None:
    line = json.dumps({"address": ANNA, **told}).encode() + b"\n"
    assert refused(importing, line) == found


@pytest.mark.parametrize(
    "line",
    [
        b'{"address": "%s", "consents": [%s], "source": "caf\xe9"}\n',
        b'{"address": "%s", "consents": [%s], "source": "a\0b"}\n',
        b'{"address": "%s", "consents": [%s], "source": "a\\u0000b"}\n',
        b'{"address": "%s", "consents": [%s], "source": "a\\ud800"}\n',
    ],
)
def test_of_a_line_of_json_with_octets_that_are_none(importing: Importing, line: bytes) -> None:
    assert refused(importing, line % (ANNA.encode(), json.dumps(NO).encode())) == {"news"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"address": "%s", "source": "direct", "source": "web", "consents": [%s]}\n', {"news"}),
        (b'{"address": "eva@people.example", "address": "%s", "consents": [%s]}\n', set()),
    ],
)
def test_of_a_line_of_json_with_a_name_twice(
    importing: Importing, line: bytes, found: set[str]
) -> None:
    assert refused(importing, line % (ANNA.encode(), json.dumps(NO).encode())) == found
    assert "appears twice in one object; give it once" in importing.rejected


def test_a_name_twice_among_very_many_is_found_soon(importing: Importing) -> None:
    # Each name counted among all took two minutes for a line like this.
    names = ", ".join(f'"n{n}": 1' for n in (*range(70_000), 69_999))
    assert importing.contacts(f"{{{names}}}\n".encode()).rejected == 1
    assert "'n69999' appears twice" in importing.rejected


@pytest.mark.parametrize(
    "line",
    [
        '{"address": "%s", "scope": "all", "scope": "marketing", "origin": "manual"}\n',
        '{"Suppressions": [{"EmailAddress": "%s", "SuppressionReason": "HardBounce", '
        '"SuppressionReason": "ManualSuppression"}]}\n',
    ],
)
def test_a_suppression_with_a_name_twice_is_none(importing: Importing, line: str) -> None:
    done = importing.suppressions((line % ANNA).encode(), "ndjson")
    assert (done.rejected, done.refusals, done.added) == (1, 0, 0)
    assert "appears twice" in importing.rejected


@pytest.mark.parametrize(
    "line",
    [
        '{"address": "%s", "scope": "all", "note": "\\udc00"}\n',
        '{"address": "%s", "code": "550", "error": "\\ud800", "created_at": "x"}\n',  # Mailgun's
    ],
)
def test_half_a_character_is_named_where_it_is(importing: Importing, line: str) -> None:
    line %= ANNA
    assert importing.suppressions(line.encode(), "ndjson").rejected == 1
    place = line.index("\\ud") + 1
    assert f"at place {place} is one half of a character" in importing.rejected


@pytest.mark.parametrize(
    "line",
    [
        b'{"address": "ann\xe9@people.example", "consents": [%s], "source": 7}\n',
        b'{"address": "anna@people.example", "consents": [%s]\n',
        b'{"address": ["anna@people.example"], "consents": [%s]}\n',
        b'["anna@people.example", [%s]]\n',
    ],
)
def test_whose_address_is_no_more_than_a_guess_is_nobody(importing: Importing, line: bytes) -> None:
    done = importing.contacts(line % json.dumps(NO).encode())
    assert (done.rejected, done.refusals, done.added) == (1, 0, 0)


HEADER = "address,name,city,consent_purpose,consent_withdrawn_at\n"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (b"anna@people.example,Doe, Anna,Paris,news,2025-01-01", {"news"}),
        (b"anna@people.example,Doe, Anna,Dr., MA,Paris,news,2025-01-01", {"news"}),
        (b"anna@people.example,Doe, Anna,Paris,news,2025-01-01,", {"news"}),
        (b"anna@people.example,Doe, Anna,Paris,news,2025-02-31", set()),  # may be anything
        (b"anna@people.example,Doe, Anna,Paris,news,soon", set()),
        (b"anna@people.example,A\0nna,Paris,news,2025-01-01", {"news"}),
        (b"anna@people.example,A\x81nna,Paris,news,2025-01-01", {"news"}),
        (b'anna@people.example,"Anna,Paris,news,2025-01-01', {"news"}),
        (b"\xe9anna@people.example,Anna,Paris,news,2025-02-31", set()),
        (b"\0anna@people.example,Anna,Paris,news,2025-01-01", set()),
    ],
)
def test_of_a_row(importing: Importing, row: bytes, found: set[str]) -> None:
    assert refused(importing, HEADER.encode() + row + b"\n", "csv") == found


def test_of_a_row_that_says_two_things_only_what_all_its_readings_say(importing: Importing) -> None:
    """Whether the cell with a date is where it belongs is not for us to guess."""
    header = "address,name,profiling_objected_at,city\n"
    row = "anna@people.example,Doe,2025-01-01,,Paris\n"
    assert refused(importing, (header + row).encode(), "csv") == set()


@pytest.mark.parametrize(
    ("header", "row", "found"),
    [
        ("address,source,tags", f"{ANNA},unheard of,restricted|vip", {"restricted", "vip"}),
        ("address,source,tags,name", f"{ANNA},unheard of,restricted,Doe,Anna", set()),  # or longer
        ("address,source,name,tags", f"{ANNA},direct,Doe,Anna,restricted", set()),  # or a name
        ("address,consent_withdrawn_at", f"{ANNA},2025-01-01", {EVERY_PURPOSE}),
        (
            "address,consent_purpose,consent_withdrawn_at",
            f"{ANNA},#REF!,2025-01-01",
            {EVERY_PURPOSE},
        ),
        ("address,consent_purpose,consent_withdrawn_at", f"{ANNA},,no", set()),
        (  # columns of a spreadsheet without a name
            "address,name,profiling_objected_at,,",
            f"{ANNA},Doe,Anna,2025-01-01,",
            {"profiling"},
        ),
        (
            "address,tags,name,profiling_objected_at",
            f"{ANNA},vip,Doe,Anna,2025-01-01",
            {"profiling"},
        ),
    ],
)
def test_what_else_a_row_refuses(
    importing: Importing, header: str, row: str, found: set[str]
) -> None:
    assert refused(importing, f"{header}\n{row}\n".encode(), "csv") == found


def test_an_objection_to_profiling_in_a_row(importing: Importing) -> None:
    header = "address,source,profiling_objected_at\n"
    row = f"{ANNA},unheard of,2025-01-01\n"
    assert refused(importing, (header + row).encode(), "csv") == {"profiling"}


@pytest.mark.parametrize(
    ("content", "file_format"),
    [
        (f"address,scope,origin,since\n{ANNA},marketing,objection,31/02/2025\n", "csv"),
        (f"address,scope,origin,since,note\n{ANNA},marketing,objection,2025-01-01,a,b\n", "csv"),
        (f"address,scope,origin,since,note\n{ANNA},marketing,objection,,a\0b\n", "csv"),
        (
            json.dumps({"address": ANNA, "scope": "marketing", "origin": "objection", "since": 1})
            + "\n",
            "ndjson",
        ),
        (
            json.dumps({"address": ANNA, "scope": "marketing", "origin": "objection", "by": "me"})
            + "\n",
            "ndjson",
        ),
    ],
)
def test_of_a_list_of_suppressions(importing: Importing, content: str, file_format: Any) -> None:
    done = importing.suppressions(content.encode(), file_format)
    assert (done.rejected, done.refusals) == (1, 1)
    (found,) = importing.suppressed(ANNA)
    assert (found.scope, found.origin) == ("marketing", "objection")
    assert found.since <= FILE_TIME


@pytest.mark.parametrize(
    "row",
    ["anna@people.example,marketing,none,", "anna@people.example,none,objection,", "x,all,manual,"],
)
def test_a_suppression_of_which_more_is_unclear_is_none(importing: Importing, row: str) -> None:
    done = importing.suppressions(f"address,scope,origin,since\n{row}\n".encode())
    assert (done.rejected, done.refusals) == (1, 0)


def test_rows_of_many_cells_are_looked_at_in_few_ways() -> None:
    from io import BytesIO

    from smtpproxy.store.exchange.rows import Row, readings

    header = ",".join(f"c{n}" for n in range(500)) + "\n"
    lines = read_lines(BytesIO((header + "x," * 600 + "x\n").encode()))
    told = read_header(lines)
    assert told is not None
    (rejected,) = read_rows(lines, told)
    row = rejected.legible
    assert isinstance(row, Row)
    assert list(readings(row, 500, ",", range(500))) == []
