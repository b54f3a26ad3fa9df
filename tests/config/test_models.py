"""One definition of each setting, for the table in the file and for the record."""

from typing import Annotated, Any, get_args

import pytest
from msgspec import NODEFAULT, Struct, structs

from smtpproxy.policy.model import Stream
from smtpproxy.settings import StreamSettings
from smtpproxy.toml_tables import AT_LEAST_ONE, DERIVED, Bounds, Key, keys_of, read_table
from tests.config.test_docs import TABLES


class Inner(Struct, frozen=True):
    name: Annotated[str, Key(example="a")]
    class_: Annotated[int, Bounds(1, 9), Key("class")] = 1


class Outer(Struct, frozen=True):
    one: Inner
    many: Annotated[tuple[Inner, ...], AT_LEAST_ONE, Key(example=("x",))] = (Inner("x"),)
    words: frozenset[str] = frozenset()
    made: Annotated[int, DERIVED] = 3


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ({}, ['one: missing; for example [one] with name = "a"']),
        ({"one": {"name": 3}}, ["one.name: must be text in double quotes, not the number 3"]),
        ({"one": {"name": "b", "class": 0}}, ["one.class: 0 is too small: at least 1"]),
        ({"one": {"name": "b", "class": 10}}, ["one.class: 10 is too large: at most 9"]),
        (
            {"one": {"name": "b", "class": True}},
            ["one.class: must be a whole number, without quotes, not true"],
        ),
        ({"one": {"name": "b", "class_": 1}}, ["one.class_: unknown key; did you mean class?"]),
        (
            {"one": {"name": "b"}, "made": 4},
            ["made: unknown key; known keys: one, many, words"],
        ),
        ({"one": [{"name": "b"}]}, ["one: there is only one: write [one], not [[one]]"]),
        (
            {"one": {"name": "b"}, "many": {"name": "c"}},
            ["many: must be a list of tables: write [[many]], not [many]"],
        ),
        (
            {"one": {"name": "b"}, "many": [{}, 3], "words": "c"},
            [
                'many.0.name: missing; for example name = "a"',
                "many.1: must be a table, not the number 3",
                'words: must be a list in brackets, not the text "c"',
            ],
        ),
    ],
)
def test_every_fault_is_reported_with_its_place(
    document: dict[str, Any], faults: list[str]
) -> None:
    found, told = read_table(Outer, document)
    assert found is None
    assert [f"{'.'.join(map(str, one.location))}: {one.text}" for one in told] == faults


def test_unset_keys_have_their_defaults() -> None:
    found, faults = read_table(Outer, {"one": {"name": "b", "class": 2}, "words": ["x", "x"]})
    assert not faults
    assert found == Outer(Inner("b", 2), words=frozenset({"x"}))


def test_every_property_of_a_stream_has_a_key() -> None:
    keys = {field.name for field in structs.fields(StreamSettings)}
    renamed = {"one_click_required": "one_click", "refuse_at_data": "refuse_at"}
    renamed["trial"] = "campaign_trial"
    of_others = {
        "marketing_cap",
        "many_brands",
        "all_brands",
        "foreign_domains",
        "confirmation",
        "permission",
    }
    named = set(Stream.__struct_fields__) - of_others
    assert {renamed.get(name, name) for name in named} <= keys


def test_every_required_key_has_an_example() -> None:
    for table in TABLES.values():
        for name, key in keys_of(table).items():
            if key.default is NODEFAULT or AT_LEAST_ONE in get_args(key.type):
                assert key.example is not None, f"{table.__name__}.{name}"
