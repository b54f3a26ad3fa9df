"""docs/data.md agrees with the code: its examples import, its tables match."""

import re
from pathlib import Path

from smtpproxy.policy.model import Audience, Origin, Source
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.store.exchange.contact_record import ConsentRecord, ContactRecord
from smtpproxy.store.exchange.layouts import Kind, layouts
from smtpproxy.store.exchange.mapping import FIELDS, read_mapping
from tests.store.exchange.importing import Importing

KINDS: tuple[Kind, ...] = ("suppressions", "contacts")
DOCUMENT = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")


def example(language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert match
    return match[1]


def table(head: str) -> dict[str, str]:
    """Rows of the table with this head: the first cell unquoted, then the others."""
    rows = DOCUMENT.partition(f"| {head} |")[2].split("\n\n")[0].splitlines()[2:]
    return {row.split("|")[1].strip(" `"): row.split("|", 2)[2] for row in rows}


def words(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", text))


def test_the_example_contact_imports(importing: Importing) -> None:
    assert importing.contacts(example("json").encode()).added == 1
    assert importing.contact("jeanne@example.org").acts


def test_the_example_suppressions_import(importing: Importing) -> None:
    done = importing.suppressions(example("csv").encode())
    assert (done.added, done.rejected) == (2, 0)


def test_the_example_mapping_works(importing: Importing, tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(example("toml"))
    content = b"E-mail,Segment,Opt-in on,Opt-out on\nanna@people.example,B2B,2025-03-01,\n"
    done = importing.contacts(content, "csv", read_mapping(path))
    assert (done.added, done.rejected) == (1, 0)
    found = importing.contact("anna@people.example")
    assert (found.audience, found.acts[0].purpose) == (Audience.PROFESSIONAL, "offers")


def test_the_documented_fields_are_those_that_exist() -> None:
    assert list(table("field")) == list(ContactRecord.__struct_fields__)
    assert list(table("field of a consent")) == list(ConsentRecord.__struct_fields__)
    listed = re.search(r"^Fields: (.*?)\.$", DOCUMENT, re.M | re.S)
    assert listed
    assert re.findall(r"`([a-z_]+)`", listed[1]) == list(FIELDS)


def test_the_documented_values_are_those_that_exist() -> None:
    assert words(table("field")["audience"]) == set(Audience)
    assert words(table("field")["source"]) == set(Source)
    assert words(table("column")["origin"]) == set(Origin)
    rulebook = builtin("fr")
    methods = set(rulebook.valid_methods | rulebook.preticked_methods)
    assert words(table("field of a consent")["method"]) == methods


def test_the_documented_layouts_are_those_that_exist() -> None:
    listed = "".join(table("provider").values())
    documented = set(re.findall(r"`([a-z]+-[a-z-]+)`", listed))
    assert documented == {one.name for kind in KINDS for one in layouts(kind)}
