"""The code of a documentation page as tests run it."""

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, substitutes: Mapping[str, str] | None = None) -> list[str]:
    """The code blocks of a page in `docs`, in order, with addresses and folders replaced.

    Raises AssertionError if a substitute's text is not on the page.
    """
    return _blocks(page, (DOCS / page).read_text(), substitutes or {})


def _blocks(page: str, text: str, substitutes: Mapping[str, str]) -> list[str]:
    for old, new in substitutes.items():
        assert old in text, f"{page} does not say {old}"
        text = text.replace(old, new)
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(page: str, heading: str, substitutes: Mapping[str, str] | None = None) -> list[str]:
    """The code blocks below one heading, up to the next of the same level."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert text, f"{page} has no heading {heading}"
    return _blocks(page, text, substitutes or {})


def parameters(block: str) -> dict[str, str]:
    """The lines `name = value` of a block."""
    pairs = (line.partition("=") for line in block.splitlines() if line.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}
