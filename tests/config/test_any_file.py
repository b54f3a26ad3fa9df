"""Invariant: any file becomes settings or faults, never another error.

Every fault is one line that begins with the file and a key path.
"""

import tomllib
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.config import ConfigError, parse
from smtpproxy.settings import Settings
from smtpproxy.toml_tables import keys_of
from tests.kit.toml import to_toml

CONTRACT = tomllib.loads((Path(__file__).parent / "good" / "contract.toml").read_text())

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(["apps", "offers", "default", "127.0.0.1:2525", "@", "unix:/x", "/x", "5m"]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(texts, scalars))
keys = st.one_of(texts, st.sampled_from(sorted(keys_of(Settings))))


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """The contract's file with some keys or whole tables replaced, added or removed."""
    document: dict[str, Any] = {
        section: [dict(t) for t in table] if isinstance(table, list) else dict(table)
        for section, table in CONTRACT.items()
    }
    for _ in range(draw(st.integers(1, 4))):
        section = draw(st.sampled_from(sorted(document)))
        tables = document[section] if isinstance(document[section], list) else [document[section]]
        tables = [table for table in tables if isinstance(table, dict)]
        if not tables or draw(st.integers(0, 4)) == 0:
            document[draw(keys)] = draw(values)
            continue
        table = draw(st.sampled_from(tables))
        known = sorted(table) or ["name"]
        key = draw(st.one_of(st.sampled_from(known), texts))
        if draw(st.booleans()):
            table[key] = draw(values)
        else:
            table.pop(key, None)
    return document


@given(spoiled())
@example(CONTRACT | {"confirmation": {}, "stream": [{"name": []}], "listener": [{"name": []}]})
def test_any_table_becomes_settings_or_faults(document: dict[str, Any]) -> None:
    judged(to_toml(document))


@given(st.text())
def test_any_text_becomes_settings_or_faults(text: str) -> None:
    judged(text)


def judged(text: str) -> None:
    faults: tuple[str, ...] = ()
    try:
        parse(text, "x.toml")
    except ConfigError as error:
        faults = error.faults or ("ConfigError without a fault",)
    for fault in faults:
        assert fault.startswith("x.toml: ")
        assert fault.isprintable(), "it must be safe to show on a terminal"
        assert len(fault.split(": ", 2)) == 3, fault
