"""Cells with an address and what mail programs put around it."""

from pathlib import Path

import pytest

from smtpproxy.store.exchange.rows import bare_address
from tests.cli.stored import Stored

EVA = "eva@people.example"


@pytest.mark.parametrize(
    "cell",
    [
        EVA,
        f"Éva Petit <{EVA}>",
        f"<{EVA}>",
        f" mailto:{EVA} ",
        f"MAILTO:{EVA}",
        f"x <mailto:{EVA}>",
    ],
)
def test_only_the_address_is_left(cell: str) -> None:
    assert bare_address(cell) == EVA


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "eva",
        f"{EVA};noe@people.example",
        f"noe@people.example <{EVA}>",
        f"Éva <{EVA}>, Noé <noe@people.example>",
        f"mailto:{EVA}?subject=x",
        f"mailto:{EVA},noe@people.example",
        "@people.example",
        f"<{EVA}",
        "<" * 100_000 + "@" * 100_000,
        " " * 100_000 + "mailto:",
    ],
)
def test_other_cells_are_unchanged(cell: str) -> None:
    assert bare_address(cell) == cell


def test_contacts_suppressions_and_lists_read_the_address(tmp_path: Path) -> None:
    """Even if the encoding of the display name is a guess."""
    stored = Stored(tmp_path)
    people = f"address\nÉva <{EVA}>\nmailto:noe@people.example\n".encode("cp1252")
    path = stored.file("people.csv", people)
    done = stored.json("contact", "import", path, "--set", "source=direct")
    assert (done["added"], done["rejected"]) == (2, 0)
    refusals = stored.file("no.csv", f"address,scope,origin\nÉva <{EVA}>,all,unsubscribe\n")
    assert stored.json("suppress", "import", refusals)["added"] == 1
    found = stored.json("scrub", path, "--stream", "offers", code=1)
    assert found["by_reason"] == {"suppressed_unsubscribe": 1, "consent_missing": 1}
