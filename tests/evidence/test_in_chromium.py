"""The evidence document and the scrub report fit the window of a browser."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.evidence.writing import Cell, Facts, Heading, Paragraph, Table, html
from smtpproxy.locale import LANGS, PAGE_LANGS
from smtpproxy.policy.model import Action, Basis, Reason, Stream, Verdict
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.scrub import verdicts
from smtpproxy.scrub.verdicts import Counts, LineVerdict, ScrubRequest
from tests.kit.chromium import Chromium

pytestmark = pytest.mark.needs("chromium")

ROW: tuple[Cell, ...] = (
    ("31 décembre 2026, 23:59:59", "01M8H9B71F9AD93VASGJQX6P36"),
    ("jean-baptiste.de.la.salle.tres.long@mail.people.example",),
    ("newsletter", "prospection"),
    ("W" * 300,),
    ("autorisé", "confirmation par courriel (double opt-in)"),
    ("P12",),
    ("250 2.0.0 queued as 4Xb1cD2eF3gH4iJ5kL6", "31 décembre 2026, 23:59:59"),
)
BLOCKS = [
    Heading("Ce qui est connu de jean-baptiste.de.la.salle.tres.long@mail.people.example", 1),
    Paragraph("a" * 400),
    Facts([("Responsable du traitement", "b" * 200)]),
    Table(["Date et décision", "Adresse", "Flux", "Objet", "Verdict et motif", "Preuve", "Réponse"],
          [ROW] * 3),
    Table(["Décision", "Fichier et ligne", "SHA-256", "Preuve"],
          [[("01M8H9B71F9AD93VASGJQX6P36",), ("01M8H9B71F9AD93VASGJQX6P36-0.ndjson, ligne 12",),
            ("c" * 64,), ("scellée sur cette machine",)]]),
]  # fmt: skip


def scrubbed(lang: str) -> str:
    counts = Counts()
    for verdict in (
        *[Verdict(Action.ALLOW, basis=basis) for basis in Basis],
        *[Verdict(Action.REFUSE, reason) for reason in Reason if reason is not Reason.NONE],
    ):
        counts.add(LineVerdict(verdict))
    asked = ScrubRequest(Stream("offers", purpose="offers"), builtin("fr"), datetime.now(UTC))
    return verdicts.html(verdicts.Findings("l" * 120 + ".csv", "ab" * 32, asked, counts), lang)


def test_documents_fit_a_screen_a_phone_and_paper(tmp_path: Path) -> None:
    pages = {f"evidence-{lang}": html(BLOCKS, lang) for lang in PAGE_LANGS}
    pages |= {f"scrub-{lang}": scrubbed(lang) for lang in LANGS}
    with Chromium(tmp_path / "profile") as browser:
        for name, page in pages.items():
            file = tmp_path / f"{name}.html"
            file.write_text(page, "utf-8")
            browser.open(file.as_uri())
            for width, paper in ((1280, False), (680, True), (360, False)):
                browser.resize(width, paper=paper)
                shown = browser.run("document.documentElement.scrollWidth")
                assert shown <= width, f"{name} is {shown} wide on {width}"
            assert browser.requested()[-1] == file.as_uri(), "nothing else is loaded"
