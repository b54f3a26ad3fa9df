"""Every format of a list: where the address is, and what is added to each line."""

import io
import json
from typing import Any

import pytest

from smtpproxy.policy.model import Action, Basis, Reason, Verdict
from smtpproxy.scrub.formats import ADDED, AddressList, open_list
from smtpproxy.scrub.verdicts import LineVerdict
from smtpproxy.store.exchange.lines import ImportFault, Rejected

ALLOWED = LineVerdict(Verdict(Action.ALLOW, basis=Basis.CONSENT), "2026-03-01")
REFUSED = LineVerdict(
    Verdict(Action.REFUSE, Reason.NO_RECORD), duplicate=True, profiling_objected=True
)
HEAD = ",".join(ADDED)


def opened(text: str | bytes, **options: Any) -> AddressList:
    return open_list(io.BytesIO(text.encode() if isinstance(text, str) else text), **options)


def addresses(found: AddressList) -> list[str]:
    return [item.value.address for item in found.items if not isinstance(item, Rejected)]


def faults(found: AddressList) -> list[tuple[int, str]]:
    return [(item.number, item.reason) for item in found.items if isinstance(item, Rejected)]


def written(text: str | bytes, judged: LineVerdict = ALLOWED, **options: Any) -> list[str]:
    """The lines of output if all get the same verdict."""
    found = opened(text, **options)
    lines = [] if found.header is None else [found.header.decode()]
    for item in found.items:
        assert not isinstance(item, Rejected), item.reason
        line = (item.value.start + found.ending(judged)).decode()
        assert line.endswith("\n")
        lines.append(line[:-1])
    return lines


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("address\nA@x.example\n", {}),
        ("id;E-Mail;EMAIL\n1;nobody;A@x.example\n", {}),
        ("Address\tname\nA@x.example\tAnna\n", {}),
        ("who,postal\nA@x.example,Paris\n", {"column": "Who"}),
        ("address,email\nParis,A@x.example\n", {"column": "email"}),
        ("recipient\nA@x.example\n", {}),
        ("A@x.example\n", {}),
        ("  <A@x.example>\r\n", {}),
        ("\n\n# line 3: x\nA@x.example\n", {}),
        ('{"address":"A@x.example"}\n', {}),
        ('{"email":"A@x.example","n":[1,{"address":2}]}', {}),
        ('{"to":"A@x.example"}\n', {"column": "to"}),
        (b"\xef\xbb\xbfemail,name\nA@x.example,Anna\n", {}),
        (b'\xef\xbb\xbf{"address":"A@x.example"}\n', {}),
        (b"\xef\xbb\xbfA@x.example\n", {}),
        ("A@x.example\n", {"form": "plain"}),
    ],
)
def test_the_address_is_found(text: str | bytes, options: dict[str, Any]) -> None:
    assert addresses(opened(text, **options)) == ["a@x.example"]


@pytest.mark.parametrize(
    ("text", "options", "part"),
    [
        ("address,email\na,b\n", {}, "with the mail address with --column"),
        ("name,city\na,b\n", {}, "no column address or email, only name, city"),
        ("name,city\na,b\n", {"column": "mail"}, "no column 'mail', only name, city"),
        ("a@x.example,Anna\n", {}, "not a header"),
        ("email,since\na@x.example,1\n", {}, "since"),
        ("a@x.example\n", {"form": "plain", "column": "x"}, "leave out --column"),
        ("email,email\n", {}, "more than once"),
    ],
)
def test_a_list_without_a_clear_place_for_the_address_is_refused(
    text: str | bytes, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(ImportFault, match=part.replace("?", r"\?")):
        opened(text, **options)


def test_csv_keeps_its_rows_and_its_delimiter() -> None:
    text = 'id;email;note\n1;a@x.example; spaced \n2;b@x.example;"a ""q""; b"\n3;c@x.example\n'
    tail = ";allow;none;consent;2026-03-01;false;false"
    assert written(text) == [
        f"id;email;note;{HEAD.replace(',', ';')}",
        f"1;a@x.example; spaced {tail}",
        f'2;b@x.example;"a ""q""; b"{tail}',
        f"3;c@x.example;{tail}",
    ]


def test_a_cell_of_several_lines_stays_one_row() -> None:
    assert written('note,email\n"two\nlines",a@x.example\n', REFUSED)[1:] == [
        '"two\nlines",a@x.example,refuse,no_record,,,true,true'
    ]


def test_a_plain_list_becomes_csv() -> None:
    assert written('a@x.example\n"b,c"@x.example\n', REFUSED) == [
        f"address,{HEAD}",
        "a@x.example,refuse,no_record,,,true,true",
        '"""b,c""@x.example",refuse,no_record,,,true,true',
    ]


def test_ndjson_keeps_its_fields_as_they_are() -> None:
    (line,) = written('{ "n": 1.50, "address": "a@x.example", "é": {"a":[ ]} } \n')
    assert line.startswith('{ "n": 1.50, "address": "a@x.example", "é": {"a":[ ]},"verdict":')
    assert list(json.loads(line))[-6:] == list(ADDED)
    (line,) = written('{"address":"a@x.example"}', REFUSED)
    assert json.loads(line) == {
        "address": "a@x.example",
        "verdict": "refuse",
        "reason": "no_record",
        "basis": None,
        "since": None,
        "duplicate": True,
        "profiling_objected": True,
    }


@pytest.mark.parametrize(
    "text", ["id,email\n7,a@x.example\n", '{"id":7,"address":"a@x.example"}\n']
)
def test_scrubbing_again_replaces_the_verdicts(text: str) -> None:
    once = "\n".join(written(text, REFUSED))
    assert written(once, ALLOWED) == written(text, ALLOWED)


def test_columns_of_an_earlier_version_are_replaced_too() -> None:
    earlier = "email,verdict,reason,basis,since,duplicate\na@x.example,allow,none,,,false\n"
    assert written(earlier) == written("email\na@x.example\n")


def test_an_object_with_one_of_the_added_fields_is_rejected() -> None:
    found = opened('{"address":"a@x.example","since":"2020"}\n{"address":"b@x.example"}\n')
    assert [fault for _, fault in faults(found)] == [
        "there is a field since, a name that scrub adds itself; rename it"
    ]


@pytest.mark.parametrize(
    ("text", "number", "part"),
    [
        (b"email\na@x.example\ncaf\xe9@x.example\n", 3, "not UTF-8"),
        (b"a@x.example\ncaf\xe9@x.example\n", 2, "not UTF-8"),
        (b'{"address":"a@x.example"}\n{"address":"b@x.example","n":"\xe9"}\n', 2, "not UTF-8"),
        (b'{"address":"a@x.example"}\n{"address":"b@x.example","n":"\\ud800"}\n', 2, "at place 31"),
        (b"email\na@x.example\nnobody\n", 3, "there is no @"),
        (b"email,n\na@x.example,1\n ,2\n", 3, "it is empty"),
        (b"email\na@x.example\nb c@x.example\n", 3, "contains a space"),
        (b'email\na@x.example\n"open\n', 3, "not closed"),
        (b"email,n\na@x.example,1\nb@x.example,1,2\n", 3, "3 cells"),
        (b'{"address":"a@x.example"}\n{"address":3}\n', 2, "not a text"),
        (b'{"address":"a@x.example"}\n{"mail":"b@x.example"}\n', 2, "no field address or email"),
        (b'{"address":"a@x.example"}\n[1]\n', 2, "not a JSON object"),
    ],
)
def test_an_unreadable_line_loses_only_itself(text: bytes, number: int, part: str) -> None:
    ((at, reason),) = faults(opened(text + text.splitlines(keepends=True)[-2]))
    assert at == number
    assert part in reason
    assert "x.example" not in reason  # the reason goes to the operator's log
    first = text.splitlines(keepends=True)[-2]
    assert addresses(opened(text + first)) == ["a@x.example", "a@x.example"]


def test_lines_that_end_with_a_lone_cr_are_read() -> None:
    text = "email,n\ra@x.example,1\r" + "b@x.example,2\r" * 50_000
    assert len(addresses(opened(text))) == 50_001
    assert addresses(opened("\ufeffa@x.example\rb@x.example")) == ["a@x.example", "b@x.example"]


def test_an_empty_list_is_valid() -> None:
    assert written("\n\n") == [f"address,{HEAD}"]
