"""The lines of a documentation page as a test runs them."""

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, substitutes: Mapping[str, str] | None = None) -> list[str]:
    """The code blocks of a page in `docs`, in order, with addresses and folders replaced.

    Raises AssertionError when a substitute's text is nowhere on the page.
    """
    text = (DOCS / page).read_text()
    for old, new in (substitutes or {}).items():
        assert old in text, f"{page} does not say {old}"
        text = text.replace(old, new)
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def parameters(block: str) -> dict[str, str]:
    """The lines `name = value` of a block."""
    pairs = (line.partition("=") for line in block.splitlines() if line.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}
