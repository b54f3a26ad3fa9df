"""docs/extensions.md names exactly the extensions that exist."""

import re
from pathlib import Path

from smtpproxy.wire.forwarding import XCLIENT, XFORWARD
from smtpproxy.wire.session import BASE, PRDR, STARTTLS, auth

DOCUMENT = Path(__file__).parents[2] / "docs" / "extensions.md"


def test_exactly_the_existing_extensions_are_documented() -> None:
    rows = re.findall(r"^\| ([A-Z0-9]+) \| ([^|]+) \|", DOCUMENT.read_text("utf-8"), re.M)
    always = [keyword for keyword, when in rows if when == "always"]
    assert always == [extension.keyword for extension in BASE]
    sometimes = [PRDR, STARTTLS, auth(()), XCLIENT, XFORWARD]
    assert [keyword for keyword, _ in rows] == [e.keyword for e in (*BASE, *sometimes)]
