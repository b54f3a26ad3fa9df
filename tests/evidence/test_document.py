"""The evidence document: all its words in both languages, and the proof of each basis."""

import re
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from msgspec.structs import replace

from smtpproxy.events import JudgedRecipient
from smtpproxy.evidence import document as whole
from smtpproxy.evidence.gather import Evidence, Mailing, Proof, record_object
from smtpproxy.evidence.writing import Block, Facts, Heading, Table, html, markdown
from smtpproxy.locale import PAGE_LANGS, Lang, texts
from smtpproxy.policy.model import (
    Action,
    Audience,
    Basis,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Link,
    MessageFeatures,
    Origin,
    Provenance,
    Purchase,
    Reason,
    Source,
    Suppression,
    Verdict,
)
from smtpproxy.policy.model import Evidence as ConsentEvidence
from smtpproxy.settings import ControllerSettings, RetentionSettings
from smtpproxy.sinks.audit.chain import Kind, Report
from smtpproxy.sinks.audit.reader import Outcome, Place, Record
from smtpproxy.store.exchange.suppression_record import LIFT_MOTIVES, OWN_MOTIVES
from smtpproxy.store.operations import Change, Rectification
from tests.kit.journal import START, Clock, decided

CONTROLLER = ControllerSettings(
    "Example SA",
    "1 rue de l'Exemple, Paris",
    "privacy@example.com",
    ("offers by e-mail", "receipts"),
    ("Hosting SA", "Mailbox\x1b SA"),
    "CNIL, www.cnil.fr",
)
AT = datetime(2026, 3, 1, tzinfo=UTC)
ACT = ConsentAct(
    "offers",
    AT,
    method="unticked_box",
    evidence=ConsentEvidence("v3", "192.0.2.7", "7", "page", "ab" * 32),
)


def document(found: Evidence, lang: Lang) -> list[Block]:
    return whole.document(found, CONTROLLER, lang)


def text_of(found: Evidence, lang: Lang = "en") -> str:
    return markdown(document(found, lang), lang)


def mailing(proof: Proof | None, code: int | None = 250) -> Mailing:
    basis = None if proof is None else proof.basis
    reason = Reason.NONE if proof else Reason.CONSENT_EXPIRED
    verdict = Verdict(Action.ALLOW if proof else Action.REFUSE, reason, basis)
    recipient = JudgedRecipient("a@b.example", "a@b.example", verdict)
    entry = decided(Clock(), recipients=(recipient,), relayed=proof is not None)
    outcome = None if code is None else Outcome(entry.id, AT, code, f"{code} <x@y.example> said")
    record = Record(entry, outcome if proof else None, Place("f-0.ndjson", 7, "c" * 64))
    return Mailing(record, recipient, proof)


def evidence(*mailings: Mailing, chain: Report | None = None, **over: object) -> Evidence:
    contact = Contact(
        "a@b.example",
        Audience.PROFESSIONAL,
        Source.PARTNER,
        AT,
        AT,
        tags=frozenset({"vip"}),
        provenance=Provenance(chain=(Link("X Ltd", True, AT), Link(None, False))),
        purchases=(Purchase("shoes", AT),),
        acts=(ACT, replace(ACT, withdrawal=True)),
    )
    suppression = Suppression("purpose:news", Origin.UNSUBSCRIBE, AT, note="note \x1b[31m")
    whole: dict[str, object] = {"contact": contact, "suppressions": [suppression], **over}
    return Evidence(
        "a@b.example", START, "relay.example", mailings=mailings, lifted=[],
        chain=chain or Report(lines=9, files=1), **whole,  # type: ignore[arg-type]
    )  # fmt: skip


RECTIFIED = Rectification(
    AT,
    "by letter",
    (
        Change("audience", "professional", "consumer"),
        Change("address", "old_name@b.example", "x"),
        Change("optout_offered", "false", "true"),
        Change("collected_at", None, "2026-03-01T10:00:00Z"),
    ),
)


def said(lang: Lang, key: str) -> str:
    return str(texts(lang).phrases[f"evidence.{key}"])


def test_corrections_are_described_in_both_languages() -> None:
    for lang, told in (
        (
            "en",
            ("professional | consumer", "x | by letter", "no | yes", "– | 1 March 2026, 10:00:00"),
        ),
        (
            "fr",
            (
                "professionnel | consommateur",
                "x | par courrier",
                "non | oui",
                "– | 1er mars 2026, 1",
            ),
        ),
    ):
        text = text_of(evidence(rectifications=[RECTIFIED]), lang)  # type: ignore[arg-type]
        assert f"{said(lang, 'rectifications')}" in text  # type: ignore[index]
        assert r"| old\_name@b.example | x |" in text
        for words in told:
            assert words in text
    assert said("en", "rectifications") not in text_of(evidence(), "en")


def test_the_document_says_since_when_other_relays_are_known() -> None:
    for lang, told in (
        ("en", "other relays are known here from 1 March 2026 on"),
        ("fr", "autres relais sont connues ici à partir du 1er mars 2026"),
    ):
        assert told in text_of(evidence(elsewhere_since=AT), lang)  # type: ignore[arg-type]
        assert told not in text_of(evidence(), lang)  # type: ignore[arg-type]


def test_an_objection_to_profiling_is_included() -> None:
    objected = Contact("a@b.example", profiling_objected_at=AT)
    for lang, told in (
        ("en", "Objected to profiling on**: 1 March 2026, 00:00:00"),
        ("fr", "Opposition au profilage le**\u202f: 1er mars 2026, 00:00:00"),
    ):
        text = text_of(evidence(contact=objected), lang)  # type: ignore[arg-type]
        assert f"- **{told}" in text


def test_every_hand_and_purchases_that_were_no_sale_are_included() -> None:
    contact = Contact(
        "a@b.example",
        provenance=Provenance("Broker", chain=(Link("Collector", True, AT),)),
        purchases=(Purchase("shoes", AT, Dealing.INQUIRY),),
    )
    text = text_of(evidence(contact=contact), "en")
    assert (
        "Collector (this sender was disclosed, 1 March 2026) → Broker (not on record whether"
        in text
    )
    assert "shoes, 1 March 2026 (inquiry)" in text


PROOFS = {
    Basis.CONSENT: (Proof(Basis.CONSENT, ACT, ACT), "wording “v3”"),
    Basis.EXISTING_CUSTOMER: (
        Proof(Basis.EXISTING_CUSTOMER, purchases=(Purchase("shoes", AT),), informed_at=AT),
        "shoes, 1 March 2026",
    ),
    Basis.PROFESSIONAL: (
        Proof(Basis.PROFESSIONAL, collection=Collection(occupations=frozenset({"finance"}))),
        "finance",
    ),
    Basis.CHARITY: (
        Proof(Basis.CHARITY, collection=Collection(informed_at=AT, optout_offered=True)),
        "Told about the use of the data on: 1 March 2026, 00:00:00; ",
    ),
    Basis.GENERIC_ADDRESS: (Proof(Basis.GENERIC_ADDRESS), "generic address"),
    Basis.TRANSACTIONAL: (Proof(Basis.TRANSACTIONAL), "transactional"),
    Basis.OPT_OUT: (Proof(Basis.OPT_OUT), "opt out"),
    Basis.PERMISSION: (Proof(Basis.PERMISSION, informed_at=AT), "permission"),
}


@pytest.mark.parametrize("basis", Basis)
def test_every_basis_has_its_proof(basis: Basis) -> None:
    proof, says = PROOFS[basis]
    text = text_of(evidence(mailing(proof)), "en")
    assert re.search(rf"^- \*\*P1\*\*: .*{re.escape(says)}", text, re.M)


def test_the_proof_names_the_day_of_consent() -> None:
    proof = PROOFS[Basis.CONSENT][0]
    for lang, says in ("en", "given on 1 March 2026"), ("fr", "donné le 1er mars 2026"):
        assert says in text_of(evidence(mailing(proof)), lang)


def test_a_hash_is_not_called_an_ip_address() -> None:
    """Consents by mail have one in its place."""
    proof = ConsentEvidence("v3", "hmac:0a1b2c3d:00ff")
    text = text_of(evidence(contact=Contact("a@b.example", acts=(replace(ACT, evidence=proof),))))
    assert "keyed hash of the IP address hmac:0a1b2c3d:00ff" in text


def test_a_proof_shared_by_many_messages_appears_once() -> None:
    proof = PROOFS[Basis.CONSENT][0]
    blocks = document(evidence(mailing(proof), mailing(proof), mailing(None)), "en")
    tables = [block for block in blocks if isinstance(block, Table)]
    (sent,) = [table for table in tables if "Verdict and reason" in table.headings]
    column = list(sent.headings).index("Proof")
    assert [row[column] for row in sent.rows] == [("P1",), ("P1",), ("–",)]


def test_the_summary_counts_outcomes_of_messages() -> None:
    proof = PROOFS[Basis.CONSENT][0]
    sent = [mailing(proof), mailing(proof, 451), mailing(proof, None), mailing(None)]
    summary = dict(
        row for b in document(evidence(*sent), "en") if isinstance(b, Facts) for row in b.rows
    )
    assert summary["Messages accepted for delivery"] == "1"
    assert summary["Messages refused"] == "1"
    assert summary["Messages not accepted, or with unknown outcome"] == "2"


def test_mail_that_was_only_observed_is_not_said_to_be_stopped() -> None:
    """Nor is a permitted message said to be anything but permitted."""
    outcome = mailing(PROOFS[Basis.CONSENT][0]).record.outcome
    allowed, refused = (
        Mailing(Record(entry, outcome, one.record.place), one.recipient, one.proof)
        for one in (mailing(PROOFS[Basis.CONSENT][0]), mailing(None))
        for entry in [replace(one.record.decided, observed=True, relayed=True)]
    )
    text = text_of(evidence(allowed, refused))
    assert "| allowed; consent |" in text
    assert "| refused (only observed: not stopped); consent expired |" in text
    despite = "Accepted although not permitted, while the stream was only observed"
    assert f"- **{despite}**: 1" in text
    assert despite not in text_of(evidence(allowed))


def test_the_fault_of_a_refused_message_is_included() -> None:
    found = mailing(None)
    fault = Verdict(Action.DEFER, Reason.SENDER_NOT_PERMITTED)
    decision = replace(found.record.decided.decision, message=fault)
    entry = replace(found.record.decided, decision=decision)
    text = text_of(evidence(Mailing(Record(entry), found.recipient, None)))
    assert "| deferred; sender not permitted, consent expired |" in text


@pytest.mark.parametrize("lang", ["fr", "en"])
def test_a_fault_of_the_record_is_in_the_document(lang: Lang) -> None:
    report = Report(lines=9, files=1)
    report.add(Kind.CHANGED, "01J9.ndjson", 7, "it does not agree")
    report.add(Kind.UNPROVEN, "01J9.ndjson", None, "behind the last anchor")
    page = html(document(evidence(chain=report), lang), lang)
    told = {
        "en": "changed: 01J9.ndjson, row 7: it",
        "fr": "Ligne modifiée\u202f: 01J9.ndjson, ligne 7. ",
    }
    assert told[lang] in page
    assert "it does not agree" in page
    assert "behind" not in page, "rows not sealed by an anchor are counted, in both languages"
    assert said(lang, "unsound") in page


def test_text_written_by_others_cannot_control_a_terminal_or_browser() -> None:
    blocks = document(evidence(contact=Contact("a@b.example", tags=frozenset({"<i>"}))), "en")
    text, page = markdown(blocks, "en"), html(blocks, "en")
    assert "\x1b" not in text + page
    assert "<i>" not in page
    assert r"\<i\>" in text


@pytest.mark.parametrize("lang", PAGE_LANGS[1:])
def test_the_french_document_has_no_english(lang: Lang) -> None:
    english = [
        text
        for key, text in texts("en").phrases.items()
        if key.startswith(("evidence.", "term.", "unit.", "part.")) and isinstance(text, str)
    ]
    told = text_of(evidence(rectifications=[RECTIFIED]), lang)
    assert [text for text in english if len(text) > 12 and text in told] == []


@pytest.mark.parametrize("lang", PAGE_LANGS)
def test_our_own_typographic_spaces_are_not_escaped(lang: Lang) -> None:
    purchases = (Purchase("shoes", AT), Purchase("boots", AT))
    contact = Contact("a@b.example", purchases=purchases, acts=(ACT,), tags=frozenset({"x", "y"}))
    for told in (
        text_of(evidence(contact=contact), lang),
        html(document(evidence(contact=contact), lang), lang),
    ):
        assert re.findall(r"\\u[0-9a-f]{4}|\\xa0", told) == []
        assert "x1b SA" in told


def test_headings_descend_one_level_at_a_time() -> None:
    levels = [b.level for b in document(evidence(mailing(None)), "fr") if isinstance(b, Heading)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_missing_answers_are_not_shown_as_no() -> None:
    """A court must not read a "no" that nobody gave."""
    for lang, unknown, no in (("en", "not on record", "no"), ("fr", "non renseigné", "non")):
        words = {
            name: texts(lang).template(f"evidence.{name}")
            for name in ("optout_offered", "informed_at")
        }
        for contact, told in (
            (Contact("a@b.example"), unknown),
            (Contact("a@b.example", optout_offered=False, never_informed=True), no),
        ):
            text = text_of(evidence(contact=contact), lang)
            for field in ("optout_offered", "informed_at"):
                colon = "\u202f:" if lang == "fr" else ":"
                assert f"- **{words[field]}**{colon} {told}\n" in text


def test_everything_article_15_requires_is_included() -> None:
    """Controller, purposes, recipients, periods, rights and the authority, in both languages."""
    kept = RetentionSettings(lifted_suppressions=None)
    for lang, told in (
        ("en", ("Controller**: Example SA", "3 years after the last purchase", "without limit")),
        ("fr", ("Responsable du traitement**\u202f: Example SA", "3 ans après le dernier achat",
                "sans limite\u202f:")),
    ):  # fmt: skip
        text = text_of(evidence(retention=kept), lang)
        everywhere = ("offers by e-mail", "Hosting SA", "privacy@example.com", "CNIL, www.cnil.fr")
        for part in (*told, *everywhere):
            assert part in text, part


def test_no_consent_is_stated_only_if_no_message_was_based_on_one() -> None:
    """A contact is removed before the record of their mail."""
    sent, gone = mailing(Proof(Basis.CONSENT, ACT)), "No consent is on record"
    assert f"{gone} any more, except" in text_of(evidence(sent, contact=None))
    assert f"{gone}." in text_of(evidence(contact=None))


def test_a_refusal_without_any_consent_is_shown() -> None:
    refusal = replace(ACT, withdrawal=True)
    for acts, told in (((refusal,), "refused"), ((ACT, refusal), "withdrawn")):
        text = text_of(evidence(contact=Contact("a@b.example", acts=acts)))
        assert f"| {told} |" in text
    of_all = (replace(refusal, purpose="*"),)
    for acts, told in ((of_all, "refused"), ((ACT, *of_all), "withdrawn")):
        text = text_of(evidence(contact=Contact("a@b.example", acts=acts)))
        assert f"| marketing | {told} |" in text


def test_every_cell_repeats_its_heading_for_narrow_screens() -> None:
    page = html(document(evidence(mailing(None)), "fr"), "fr")
    assert page.count("<td ") == page.count('<td data-label="')
    assert 'data-label="Verdict et motif"' in page
    assert "<script" not in page
    assert "http" not in page.replace('http-equiv="', "")


def test_the_source_announced_in_a_message_is_in_the_json_file() -> None:
    said = "Your address is from Lists Ltd."
    one = decided(Clock(), features=MessageFeatures(source_statement=said))
    for told, expected in ((one, said), (replace(one, features=None), None)):
        assert record_object(Record(told))["source_announced"] == expected


def test_the_source_announced_in_a_message_is_in_the_document() -> None:
    said = "Your address is from Lists Ltd."
    sent = mailing(Proof(Basis.CONSENT))
    assert "Announced source" not in text_of(evidence(sent))
    features = MessageFeatures(source_statement=said)
    entry = replace(sent.record.decided, features=features)
    sent = replace(sent, record=Record(entry, sent.record.outcome))
    for lang, label in (("en", "Announced source: "), ("fr", "Origine indiquée\u202f: ")):
        assert label + said in text_of(evidence(sent), lang)
        assert label + said in html(document(evidence(sent), lang), lang)


def test_each_kind_of_fault_has_words_in_both_languages() -> None:
    for lang in ("en", "fr"):
        assert [
            k
            for k in Kind
            if k is not Kind.UNPROVEN and f"evidence.finding.{k}" not in texts(lang).phrases
        ] == []


def test_reasons_are_in_the_language_of_the_document() -> None:
    for motive in (*OWN_MOTIVES, *LIFT_MOTIVES):
        assert f"evidence.motive.{motive}" in texts("fr").phrases
    for note, told in (
        ("By letter", "| par courrier |"),
        (f"link of id={'0' * 26}", f"| lien du message {'0' * 26} |"),
        (
            f"taken back on the page of id={'0' * 26}",
            f"| annulé sur la page du message {'0' * 26} |",
        ),
        ("import 01J9 undone by root", "| import 01J9 annulé par root |"),
        (
            "by the person, on the page whose link was mailed on 2026-03-01",
            "| par la personne, sur la page dont le lien a été envoyé le 2026-03-01 |",
        ),
        ("free text", "| free text |"),
    ):
        order = Suppression("all", Origin.OBJECTION, AT, note=note)
        assert told in text_of(evidence(suppressions=[order]), "fr")


def test_the_document_says_nothing_is_stored_only_if_true() -> None:
    order = Suppression("marketing", Origin.ERASURE, AT)
    whole = text_of(evidence(contact=None, suppressions=[]))
    rest = text_of(evidence(contact=None, suppressions=[order]))
    assert "\nNothing is stored about this address" in whole
    assert "\nApart from what follows, nothing is stored about this address" in rest


@pytest.mark.parametrize(
    ("came_by", "en", "fr"),
    [
        ("purchased: X Ltd", "known by purchased: X Ltd", "«\u202fachetée\u202f: X Ltd\u202f»"),
        ("rented", "known by rented", "connu par l’adresse «\u202flouée\u202f»"),
        ("a fair", "known by a fair", "connu par l’adresse «\u202fa fair\u202f»"),
    ],
)
def test_the_origin_of_a_consent_is_described(came_by: str, en: str, fr: str) -> None:
    contact = Contact("a@b.example", acts=(replace(ACT, came_by=came_by),))
    assert en in text_of(evidence(contact=contact), "en")
    assert fr in text_of(evidence(contact=contact), "fr")


def test_the_text_consented_to_is_in_quotation_marks() -> None:
    """Otherwise a court could not tell quoted words from ours."""
    contact = Contact("a@b.example", acts=(ACT,))
    for lang, told in (("en", "wording “v3”, IP"), ("fr", "texte «\u202fv3\u202f», adresse IP")):
        text = text_of(evidence(contact=contact), lang)
        assert told in text
    assert "| courriel |" in text
    spaced = replace(ACT, evidence=ConsentEvidence("«\u202fOffres\xa0!"))
    told = text_of(evidence(contact=Contact("a@b.example", acts=(spaced,))), "fr")
    assert "\u202fOffres\xa0\\!" in told, "no-break spaces in the quoted text are kept"
    assert "; " not in text.replace("\u202f; ", ""), "French has a space before a semicolon"
