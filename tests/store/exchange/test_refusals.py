"""A refusal in a record that is rejected for something else counts, wherever it can be read."""

import json
from typing import Any

import pytest

from smtpproxy.policy.model import EVERY_PURPOSE
from smtpproxy.store.exchange.lines import read_lines
from smtpproxy.store.exchange.rows import read_header, read_rows
from tests.store.exchange.importing import FILE_TIME, Importing

ANNA = "anna@people.example"
AT = "2025-01-01T00:00:00Z"
NO = {"purpose": "news", "withdrawn_at": AT}
WISH = {"purpose": "news", "frequency": "weekly", "at": AT}


def refused(importing: Importing, content: bytes, file_format: Any = "ndjson") -> set[str]:
    """The refusals taken from a line that is otherwise rejected."""
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
        ({"tags": ["restricted", 3, "vip"]}, {"restricted", "vip"}),  # either may restrict
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
def test_a_refusal_in_a_json_line(
    importing: Importing, told: dict[str, Any], found: set[str]
) -> None:
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
def test_a_refusal_in_a_json_line_with_invalid_octets(importing: Importing, line: bytes) -> None:
    assert refused(importing, line % (ANNA.encode(), json.dumps(NO).encode())) == {"news"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"address": "%s", "source": "direct", "source": "web", "consents": [%s]}\n', {"news"}),
        (b'{"address": "eva@people.example", "address": "%s", "consents": [%s]}\n', set()),
    ],
)
def test_a_refusal_in_a_json_line_with_a_repeated_key(
    importing: Importing, line: bytes, found: set[str]
) -> None:
    assert refused(importing, line % (ANNA.encode(), json.dumps(NO).encode())) == found
    assert "appears twice in one object; give it once" in importing.rejected


def test_a_repeated_key_among_very_many_is_found_quickly(importing: Importing) -> None:
    # A quadratic search once took two minutes for a line like this.
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
def test_a_suppression_with_a_repeated_key_is_rejected(importing: Importing, line: str) -> None:
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
def test_half_a_surrogate_pair_is_reported_with_its_position(
    importing: Importing, line: str
) -> None:
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
def test_a_refusal_is_dropped_if_its_address_is_a_guess(importing: Importing, line: bytes) -> None:
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
def test_a_refusal_in_a_row(importing: Importing, row: bytes, found: set[str]) -> None:
    assert refused(importing, HEADER.encode() + row + b"\n", "csv") == found


def test_only_what_all_readings_of_an_ambiguous_row_refuse(importing: Importing) -> None:
    """We must not guess whether the cell with a date is in the right column."""
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
def test_other_refusals_in_a_row(
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
def test_a_refusal_in_a_list_of_suppressions(
    importing: Importing, content: str, file_format: Any
) -> None:
    done = importing.suppressions(content.encode(), file_format)
    assert (done.rejected, done.refusals) == (1, 1)
    (found,) = importing.suppressed(ANNA)
    assert (found.scope, found.origin) == ("marketing", "objection")
    assert found.since <= FILE_TIME


@pytest.mark.parametrize(
    "row",
    ["anna@people.example,marketing,none,", "anna@people.example,none,objection,", "x,all,manual,"],
)
def test_a_suppression_with_an_unclear_address_scope_or_origin_is_rejected(
    importing: Importing, row: str
) -> None:
    done = importing.suppressions(f"address,scope,origin,since\n{row}\n".encode())
    assert (done.rejected, done.refusals) == (1, 0)


def test_the_number_of_readings_of_a_long_row_is_bounded() -> None:
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
