"""Invariant: whatever a rulebook file holds, it is valid or all its faults are listed."""

import tomllib
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.rulebooks import (
    BUILTIN_NAMES,
    PARAMETERS,
    SHORTHANDS,
    RulebookError,
    parse_rulebook,
)
from tests.kit.toml import to_toml
from tests.policy.strategies import untimed

WORDS = [
    *("direct", "web", "consent", "opt_out", "generic_address", "notice", "sale", "unsubscribe"),
    *("3 years", "10 business days", "unlimited", "always", "wording", "signed_form", "silence"),
]
words = st.one_of(st.sampled_from(WORDS), st.text(max_size=10))
scalars = st.one_of(
    words,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.dates().map(date.isoformat),
)
values = st.one_of(
    scalars,
    st.lists(words, max_size=4),
    st.lists(scalars, max_size=3),
    st.dictionaries(words, st.one_of(scalars, st.lists(words)), max_size=3),
)
KEYS = ["extends", "add", "remove", "sources", *PARAMETERS, *SHORTHANDS]
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=10))
changes = st.dictionaries(st.sampled_from([*PARAMETERS]), values, max_size=3)
documents = st.builds(
    lambda name, rest, add, extends: {"extends": extends, "add": add, **rest, "name": name},
    st.sampled_from(["own", "own", "own", "", 3]),
    st.dictionaries(keys, values, max_size=4),
    changes,
    st.sampled_from(BUILTIN_NAMES),
)


@untimed
@given(documents)
def test_any_document_is_a_rulebook_or_a_list_of_faults(document: dict[str, Any]) -> None:
    judged(to_toml(document))


@untimed
@given(st.text())
def test_any_text_is_a_rulebook_or_a_list_of_faults(text: str) -> None:
    judged(text)


def judged(text: str) -> None:
    book, faults = _read(text)
    if book is not None:
        assert book.name == tomllib.loads(text)["name"]
        assert "consent" in book.bases
        return
    assert faults
    assert len(set(faults)) == len(faults)
    for fault in faults:
        key, _, what = fault.partition(": ")
        assert key
        assert what


def _read(text: str) -> tuple[Rulebook | None, tuple[str, ...]]:
    try:
        return parse_rulebook(text), ()
    except RulebookError as error:
        return None, error.faults
