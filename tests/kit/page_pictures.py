"""Screenshots of the pages for docs/unsubscribe.md: `python -m tests.kit.page_pictures`."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from smtpproxy.config import parse
from smtpproxy.locale.pages import environment
from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Origin,
    Preference,
    Purchase,
    Source,
    Suppression,
)
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.web.known import Stored
from smtpproxy.web.look import Look, looks
from smtpproxy.web.personal import page
from smtpproxy.web.unsubscribe import render
from tests.kit.chromium import Chromium

FIVE_YEARS = Period(5, Unit.YEARS)
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
CONFIG = """
[server]
hostname = "relay.example.com"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
[upstream]
address = "127.0.0.1:10025"
[[brand]]
name = "shop"
title = "The Example Shop"
legal_name = "Example SA"
address = "1 rue de l'Exemple, 75001 Paris"
help = "help@shop.example"
logo = "{logo}"
colour = "#8a1538"
colour_dark = "#f2a7bd"
[[brand]]
name = "boots"
title = "Boots & Co"
legal_name = "Example SA"
address = "1 rue de l'Exemple, 75001 Paris"
[[stream]]
name = "offers"
brand = "shop"
class = "marketing"
purpose = "offers"
label = {{en = "Special offers"}}
[[stream]]
name = "news"
brand = "shop"
class = "marketing"
purpose = "news"
label = {{en = "News from the workshop"}}
"""
LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="48" height="48"><circle cx="24" cy="24"'
    ' r="22" fill="#8a1538"/><path d="M14 30V16l10 10 10-10v14" fill="none" stroke="#fff"'
    ' stroke-width="4"/></svg>'
)
NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
SIZES = {"desktop": 1024, "phone": 390}


def shop(folder: Path) -> Look:
    logo = folder / "logo.svg"
    logo.write_text(LOGO)
    return looks(parse(CONFIG.format(logo=logo), "x.toml"))["shop"]


def pages(look: Look, lang: str = "en") -> dict[str, str]:
    about = (look, lang)
    link = ("purpose:offers", "offers", "this", "link")
    return {
        "ask": render(*about, "ask", *link),
        "done": render(*about, "done", *link, "undo"),
        "saved": render(*about, "saved", *link, "undo", (("offers", "weekly"), ("news", "none"))),
        "mailed": render(*about, "mailed", *link),
        "undone": render(*about, "undone", *link),
        "confirm": environment(lang)
        .get_template("confirmation.html")
        .render(look=look, state="ask", title="Offers?", text="Yes, send me them.", button="Yes"),
        "personal": page(stored(), *about, NOW, FIVE_YEARS, "corrected"),
        "tracked": page(stored("tracking"), *about, NOW, FIVE_YEARS),
        "unknown": render(*about, "unknown", "", "unknown", "this", ""),
    }


def stored(*agreed: str) -> Stored:
    """The data of somebody who agreed to these too."""
    at = NOW
    contact = Contact(
        "jeanne@people.example",
        Audience.PROFESSIONAL,
        Source.DIRECT,
        at,
        at,
        True,
        occupations=frozenset({"carpentry"}),
        language="fr",
        purchases=(Purchase("chisels", at, brand="shop"),),
        acts=tuple(
            ConsentAct(purpose, at, method="unticked_box", evidence=Evidence("form v3"))
            for purpose in ("offers", *agreed)
        ),
        preferences=(Preference("offers", Frequency.MONTHLY, at, "shop"),),
    )
    stopped = Suppression("purpose:news", Origin.UNSUBSCRIBE, at)
    return Stored(contact.address, contact, [stopped])


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with Chromium(folder / "profile") as browser:
            for state, text in pages(shop(folder)).items():
                if state not in ("ask", "done", "personal"):
                    continue
                file = folder / f"{state}.html"
                file.write_text(text, "utf-8")
                for size, width in SIZES.items():
                    for scheme in ("light", "dark"):
                        browser.resize(width, dark=scheme == "dark")
                        browser.open(file.as_uri())
                        height = browser.run("document.documentElement.scrollHeight")
                        browser.resize(width, height, dark=scheme == "dark")
                        picture = PICTURES / f"page-{state}-{size}-{scheme}.webp"
                        browser.screenshot(picture, format="webp", quality=30)


if __name__ == "__main__":
    main()
