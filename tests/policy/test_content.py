"""What the content of a message must have, from raw octets to the verdict."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import Body, TextPart, read_body
from smtpproxy.mail.unsubscribe import UriFault, link_fault
from smtpproxy.mail.visible_text import visible_text
from smtpproxy.policy import way_out
from smtpproxy.policy.bulk_text import UNSUBSCRIBE
from smtpproxy.policy.content_checks import check_content
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.features import read_features
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Action,
    Alignment,
    ContentFeatures,
    ExistingUnsubscribe,
    MessageFeatures,
    Mode,
    Stream,
    TrackingPixels,
    Transaction,
    UndeclaredBulk,
)
from smtpproxy.policy.rules.message import stream_in_force
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, OFFERS, RECEIPTS

HOST, BOX = "https://u.shop.example/l/1?t=abc", "mailto:leave+1@shop.example?subject=x"
HEAD = (
    "From: Shop <shop@example.com>\r\n"
    f"List-Unsubscribe: <{HOST}>,\r\n <{BOX}>\r\n"
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)


def features_of(
    stream: Stream, raw: str, reverse_path: str = "b@example.com", people: Sequence[str] = ()
) -> MessageFeatures:
    head, _, body = raw.partition("\r\n\r\n")
    headers = HeaderBlock(head.encode() + b"\r\n\r\n")
    shown = visible_text(read_body(headers, body.encode())) if stream.reads_text else None
    return check_content(
        stream, read_features(headers, "X-Mail-Stream"), headers, reverse_path, shown, people
    )


def reason(stream: Stream, raw: str, reverse_path: str = "b@example.com") -> str:
    message = features_of(stream, raw, reverse_path)
    verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
    assert verdict is not None
    return verdict.reason


def html(body: str) -> str:
    return HEAD + "Content-Type: text/html; charset=utf-8\r\n\r\n" + body


def text(body: str) -> str:
    return HEAD + "Content-Type: text/plain; charset=utf-8\r\n\r\n" + body


OPTOUT = replace(OFFERS, body_optout=True)
LINK = "<a href='https://U.shop.example/other'>here</a>"
WAYS = [
    (html(f"<p>To unsubscribe click {LINK}"), "none"),
    (html(f"<p>UN<b>SUB</b>SCRIBE {LINK}"), "none"),
    (html("<p>Se d&eacute;sinscrire : <a href='mailto:leave%2B1@shop.example'>ici</a>"), "none"),
    (text(f"Um sich abzumelden: {HOST}"), "none"),
    (text("Unsubscribe: <https://u.shop.example>."), "none"),
    (html(f"<p>Click {LINK}"), "body_optout_missing"),
    (html("<p>Unsubscribe"), "body_optout_missing"),
    (html("<p>Unsubscribe <a href='https://elsewhere.example/'>x</a>"), "body_optout_missing"),
    (html("<p>Unsubscribe <a href='mailto:shop@shop.example'>x</a>"), "body_optout_missing"),
    (html(f"<div style='display:none'>unsubscribe {LINK}</div>"), "body_optout_missing"),
    (html(f"<!-- unsubscribe {LINK} -->"), "body_optout_missing"),
    (html("<p>Unsubscribe <a href='https://[broken'>x</a>"), "body_optout_missing"),
    (  # leads to elsewhere.example
        html("<p>Unsubscribe <a href='https://elsewhere.example\\@u.shop.example/'>x</a>"),
        "body_optout_missing",
    ),
    (html("<p>Unsubscribe <a href='https:\\\\u.shop.example\\x'>x</a>"), "none"),
    (
        html("<p>Unsubscribe <a href='https://u.shop.example/{{token}}'>x</a>"),
        "body_optout_missing",
    ),
    (text(""), "body_optout_missing"),
    (HEAD + "Content-Type: multipart/mixed\r\n\r\nunsubscribe " + HOST, "body_optout_missing"),
]


@pytest.mark.parametrize(("raw", "expected"), WAYS)
def test_ways_out(raw: str, expected: str) -> None:
    assert reason(OPTOUT, raw) == expected
    assert reason(OFFERS, raw) == "none"  # receipts need none


@pytest.mark.parametrize(
    ("offered", "link", "expected"),
    [
        (HOST, HOST, "none"),
        (HOST, BOX, "body_optout_missing"),
        (BOX, BOX, "none"),
        (BOX, HOST, "body_optout_missing"),
    ],
)
def test_the_link_in_the_text_must_be_one_from_the_header(
    offered: str, link: str, expected: str
) -> None:
    stream = replace(OPTOUT, one_click_required=False)
    raw = f"From: Shop <shop@example.com>\r\nList-Unsubscribe: <{offered}>\r\n"
    assert reason(stream, f"{raw}\r\nTo unsubscribe: {link}") == expected
    adding = replace(OPTOUT, unsubscribe_scope="marketing")  # the field then has the relay's link
    bare = "From: Shop <shop@example.com>\r\n"
    assert reason(adding, f"{bare}\r\nTo unsubscribe: {link}") == "none"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Pour vous désinscrire, écrivez à leave+1@shop.example.", "none"),
        ("Unsubscribe: <Leave+1@Shop.example>", "none"),
        ("Se désinscrire : «leave+1@shop.example»", "none"),
        ("Unsubscribe [leave+1@shop.example]", "none"),
        ("Unsubscribe: *leave+1@shop.example*", "none"),
        ("Unsubscribe: leave+1@shop.example/our terms", "none"),
        ("Unsubscribe: leave+1@shop.example… or leave+1@shop.example|terms", "none"),
        ("Unsubscribe: leave+1\u200b@shop.example", "none"),  # so that it does not become a link
        ("Unsubscribe: leave+1@shöp.example", "body_optout_missing"),
        ("Unsubscribe: https://x.test/?leave+1@shop.example", "body_optout_missing"),
        ("leave+1@shop.example", "body_optout_missing"),  # without words that say what it is for
        ("Unsubscribe: xleave+1@shop.example", "body_optout_missing"),
        ("Unsubscribe: leave+1@shop.example.org", "body_optout_missing"),
        ("Unsubscribe: shop@shop.example", "body_optout_missing"),
        ("Unsubscribe", "body_optout_missing"),
    ],
)
def test_an_address_in_the_text_is_a_way_out_without_a_link(written: str, expected: str) -> None:
    assert reason(OPTOUT, text(written)) == expected
    assert reason(OPTOUT, html(f"<p>{written.replace('<', '&lt;')}</p>")) == expected


def test_an_address_that_mtas_break_is_not_a_way_out() -> None:
    raw = text("Unsubscribe: leave+1@shop.example")
    headers = HeaderBlock(raw.partition("\r\n\r\n")[0].encode() + b"\r\n\r\n")
    features = read_features(headers, "X-Mail-Stream")
    written, later = (
        visible_text(Body((TextPart(True, f"Unsubscribe: leave+1@{host}"),), whole=True))
        for host in ("shop.example", "sh\r\n op.example")
    )
    shown = written.delivered(written)
    assert check_content(OPTOUT, features, headers, "", shown).malformed is None
    found = check_content(OPTOUT, features, headers, "", written.delivered(later)).malformed
    assert found is not None
    assert "MTAs break" in found


@pytest.mark.parametrize("one", ["a@{}ابجدهوزحطي-.1", "mailto:a@я{}.1"])
def test_only_a_few_of_many_bad_addresses_are_examined(
    one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes up to half a millisecond of the event loop."""
    examined = list[str]()

    def fault(uri: str) -> UriFault | None:
        examined.append(uri)
        return link_fault(uri)

    monkeypatch.setattr(way_out, "link_fault", fault)
    body = "\r\n".join(f"Unsubscribe {one.format(n)}" for n in range(2_000))
    looked = features_of(OPTOUT, f"{ADDED}Content-Type: text/plain\r\n\r\n{body}")
    assert looked.content is not None
    assert not looked.content.shows_unsubscribe
    assert len(examined) == 100


def test_an_address_that_accepts_no_mail_is_not_a_way_out() -> None:
    """Nor is the reader's own, as in "This was sent to …" where the link is missing."""
    reader, sender = "jeanne@people.example", "shop@shop.example"
    for written, people, shows in (
        (sender, [reader], True),
        ("shop@localhost", [reader], False),
        ("@", [reader], False),
        ("sent to Jeanne@people.example", [reader], False),
        ("sent to Jeanne@people.example", [sender, reader], True),
        (f"mailto:{sender}", [sender], True),
    ):
        looked = features_of(OPTOUT, f"{ADDED}\r\nUnsubscribe: {written}", people=people).content
        assert looked is not None
        assert looked.shows_unsubscribe is shows


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://abmelden.bücher.test/1", "none"),
        ("https://ABMELDEN.BÜCHER.test/1", "none"),
        ("https://abmelden.xn--bcher-kva.test/1", "none"),
        ("mailto:stop@bücher.test", "none"),
        ("stop@bücher.test", "none"),
        ("https://straße.test/1", "none"),  # strasse.test according to Python's codec
        ("stop@bucher.test", "body_optout_missing"),
        ("https://strasse.test/1", "body_optout_missing"),
        ("https://abmelden.bucher.test/1", "body_optout_missing"),
        ("https://bücher.test/1", "body_optout_missing"),
        ("https://bü\u2665\u200dcher.test/1", "body_optout_missing"),
    ],
)
def test_a_host_in_the_text_may_have_letters_that_the_header_must_not(
    link: str, expected: str
) -> None:
    offered = (
        "<https://abmelden.xn--bcher-kva.test/u>, <https://xn--strae-oqa.test>,"
        " <mailto:stop@xn--bcher-kva.test>"
    )
    head = HEAD.replace(f"<{HOST}>,\r\n <{BOX}>", offered)
    assert offered in head
    assert reason(OPTOUT, f"{head}Content-Type: text/plain\r\n\r\nUnsubscribe: {link}") == expected


SHOP = "<a href='https://u.shop.example/shop'>Shop</a>"


@pytest.mark.parametrize(
    "left",
    [
        *("{{token}}", "{{ token }}", "{token}", "${token}", "{% token %}", "<%= token %>"),
        *("[[token]]", "[token]", "*|TOKEN|*", "%%token%%", "##token##", "$token", "<?= $token ?>"),
    ],
)
def test_a_link_whose_token_is_missing_is_no_way_out(left: str) -> None:
    """In a text, too, where a link ends before the braces and blanks of its placeholder."""
    out = f"https://u.shop.example/l/{left}"
    written = out.replace("<", "&lt;")
    for raw in (f"Unsubscribe: {out}", f"Unsubscribe: <{out}>.", f"Opt out ({out})"):
        assert reason(OPTOUT, text(raw)) == "body_optout_missing"
    assert reason(OPTOUT, html(f"<p>Unsubscribe: {written}")) == "body_optout_missing"
    assert reason(OPTOUT, html(f'<a href="{written}">Unsubscribe</a>')) == "body_optout_missing"
    if left not in ("[token]", "$token"):  # those may be other text, too: [here] https://…
        for words in (f"Unsubscribe: {left}", f"Shop: {HOST} Unsubscribe: {left}"):
            shown = words.replace("<", "&lt;")
            assert reason(OPTOUT, text(f"{words}\r\n{HOST}")) == "body_optout_missing"
            assert reason(OPTOUT, html(f"<p>{shown}<p>{SHOP}")) == "body_optout_missing"
    for mark in ("}", "]", "|", " [1]", " {x}", "<br>", ") (or [stay](https://x.test))", "*"):
        assert reason(OPTOUT, text(f"Unsubscribe: {HOST}{mark}")) == "none"


NEXT = [
    (f"{SHOP}<p>Unsubscribe {{}}", "<a href='{}'>here</a>"),
    (f"<p>{SHOP} | {{}}", "<a href='{}'>Unsubscribe</a>"),
    (f"<p>{SHOP}<p>{{}} to unsubscribe from it. | {SHOP}", "<a href='{}'>Click</a>"),
    (f"<p>{SHOP}<p>You may unsubscribe:<table><tr><td>{{}} {SHOP}", "<a href='{}'>Click</a>"),
    (f"{SHOP}<p>{{}}, {SHOP}", "<a href='{}'>click <b>here to</b> opt</a> out"),
    (
        f"<p>No more news? {{}}<br>{SHOP}",
        "<a href={}><img src=o.png alt='Se d&eacute;sinscrire'></a>",
    ),
    (f"<img usemap=#m><map name=m>{{}}</map>{SHOP}", "<area href='{}' alt=Abmelden>"),
]


@pytest.mark.parametrize(("around", "out"), NEXT)
def test_the_link_around_the_words_counts(around: str, out: str) -> None:
    """If a template left it empty, the next link does not count instead."""
    found = [
        reason(OPTOUT, html(around.format(out.format(target))))
        for target in (HOST, BOX, "", "#", "#x", "{{link}}", "/leave", "javascript:x", "leave.php")
    ]
    assert found == ["none"] * 2 + ["body_optout_missing"] * 7
    nothing = out.replace("href='{}'", "").replace("href={}", "")
    assert reason(OPTOUT, html(around.format(nothing))) == "body_optout_missing"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (text(f"Shop: {HOST}\r\nUnsubscribe: {{{{link}}}}"), "body_optout_missing"),
        (text(f"Unsubscribe:\r\n\r\n{HOST}"), "none"),
        (text(f"[link:unsubscribe_url]\r\n{HOST}"), "body_optout_missing"),
        (text(f"[Unsubscribe] {HOST}"), "none"),
        (text(f"To unsubscribe, [click here]({HOST})"), "none"),
        (text(f"Dear {{{{name}}}}, you can unsubscribe: {HOST}"), "none"),
        (text(f"At {HOST} you can unsubscribe"), "none"),
        (text(f"Why people unsubscribe. {'We know. ' * 30}{HOST}"), "body_optout_missing"),
        (text(f"Unsubscribe? {'We know. ' * 20}{HOST}"), "none"),
        (html(f"<a name=x>Unsubscribe</a>: {LINK}"), "none"),
        (html(f"<a href='{HOST}'>Unsubscribe</a><a href='#'>x</a>"), "none"),
        (html(f"<p>{LINK} if you want to unsubscribe<p><a href='#'>x</a>"), "none"),
        (html(f"<p><a href='#'>x</a> unsubscribe {LINK}"), "none"),
        (html(f"<p><a href='#'>x</a> | To unsubscribe from our news, click {LINK}"), "none"),
        (html(f"<p><a href='#'>x</a>. Unsubscribe:<br>{LINK}"), "none"),
        (html(f"<p>{SHOP} | To unsubscribe, click <a href='#'>x</a>"), "body_optout_missing"),
        (html(f"<p>{SHOP} To unsubscribe, click <a href='#'>x</a>"), "body_optout_missing"),
        (html(f"<p>{LINK} to unsubscribe | <a href='#'>x</a>"), "none"),
        (text(f"{HOST} - unsubscribe"), "none"),
        (html(f"{SHOP}<p>You may unsubscribe by phone"), "body_optout_missing"),
        (html("<a href='tel:1'>Unsubscribe</a>"), "body_optout_missing"),
        (html(f"<a href='#'>Unsubscribe{SHOP}"), "body_optout_missing"),
        (html(f"<a id=x>Unsubscribe</a>: {LINK}"), "none"),
        (html(f"<a href='mailto:{{{{box}}}}'>Unsubscribe</a> {SHOP}"), "body_optout_missing"),
        (html(f"<a href='{HOST}'><img alt=Shop></a>"), "body_optout_missing"),
        (html(f"To unsubscribe call <a href='tel:1'>0800</a> or click {LINK}"), "none"),
        (html(f"<a href='#'>Unsubscribe</a> or unsubscribe {LINK}"), "none"),
        (html(f"Unsubscribe: <a href='#'>{HOST}</a>"), "body_optout_missing"),
        (html("Unsubscribe: <a href='#'>leave+1@shop.example</a>"), "body_optout_missing"),
        (html(f"Unsubscribe <a href='https://x.test/'>{HOST}</a>"), "body_optout_missing"),
        (html(f"<a href='{HOST}'><img width=1 alt=Unsubscribe>Shop</a>"), "body_optout_missing"),
        (html(f"<a href='{HOST}'><img hidden alt=Unsubscribe>Shop</a>"), "body_optout_missing"),
        (html(f"<img alt=Unsubscribe><a href='{HOST}'>Shop</a>"), "body_optout_missing"),
        (html(f"<p>Unsubscribe<a href='#'></a> {LINK}"), "none"),
        (html(f"<p>Unsubscribe: <a href='{HOST}'> </a>"), "body_optout_missing"),
        (html(f"<p>Unsubscribe: <a href='{HOST}'><img src=o.png></a>"), "none"),
        (html(f"<p>Click {LINK}<br>to unsubscribe."), "none"),
        (html(f"<td>Cliquez <a href='{HOST}'>ici</a><td>pour vous désabonner"), "none"),
        (text(f"Please visit\r\n{HOST}\r\nif you no longer wish to receive it"), "none"),
        (text("Send a mail to leave+1@shop.example\r\nto unsubscribe."), "none"),
        (html(f"<p>{SHOP}<p>To unsubscribe, click"), "body_optout_missing"),
        (html(f"<p>Click {LINK}.<p>To unsubscribe, click"), "body_optout_missing"),
        (html(f"<p>Click {LINK}<p>Unsubscribe:"), "body_optout_missing"),
        (html(f"<p>Cliquez <a href='{HOST}'>ici</a><p>Se désinscrire :"), "body_optout_missing"),
        (html(f"<p>Click {LINK}<p>To unsubscribe, <a href='#'>x</a>"), "body_optout_missing"),
        (text(f"Click {HOST}\r\nto unsubscribe: {{{{link}}}}"), "body_optout_missing"),
    ],
)
def test_words_and_links_that_belong_together(raw: str, expected: str) -> None:
    assert reason(OPTOUT, raw) == expected


SENTENCES = {
    "en": (
        "You no longer wish to receive our news? Opt out",
        "Manage your e-mail preferences",
        "Manage preferences",
        "Notification settings",
        "Turn off these reminders",
        "Too much mail? Take me off",
    ),
    "fr": (
        "Pour vous désabonner, cliquez",
        "Si vous ne souhaitez plus recevoir nos offres",
        "Pour cesser de recevoir nos messages",
        "Je ne souhaite plus recevoir d’offres",
        "Pour ne plus être sollicité par e-mail",
        "M’opposer à ces envois",
        "Retirer mon adresse",
        "Annuler votre abonnement",
        "Vous ne souhaitez plus être informé de nos ventes ?",
        "Gérer mes alertes",
    ),
    "de": (
        "Newsletter abbestellen",
        "Sie möchten keine E-Mails mehr? Hier abmelden",
        "Sie möchten unsere Post nicht mehr beziehen?",
        "Melden Sie sich hier ab",
        "Abo kündigen",
    ),
    "es": (
        "Darse de baja",
        "Si no desea recibir más correos, cancelar la suscripción",
        "Gestionar preferencias",
        "Baja del boletín",
    ),
    "it": (
        "Per disiscriverti clicca",
        "Annulla l’iscrizione",
        "Se non desideri più ricevere",
        "Cancellazione dalla lista",
        "Gestisci preferenze",
    ),
    "nl": (
        "Uitschrijven",
        "Wil je deze mails niet meer ontvangen? Meld je af",
        "Geen nieuwsbrief meer?",
        "Beheer uw voorkeuren",
    ),
    "pt": ("Cancelar a subscrição", "Para deixar de receber", "Se não deseja receber avisos"),
    "pl": ("Wypisz się", "Nie chcesz już otrzymywać"),
}


@pytest.mark.parametrize("lang", UNSUBSCRIBE)
def test_words_for_unsubscribing_are_known_in_every_language(lang: str) -> None:
    for sentence in SENTENCES[lang]:
        assert reason(OPTOUT, html(f"<p>{sentence} {LINK}")) == "none", sentence
        assert reason(OPTOUT, text(f"{sentence}\r\n{HOST}")) == "none", sentence


def test_most_readers_see_the_html() -> None:
    parts = (
        HEAD + "Content-Type: multipart/alternative; boundary=b\r\n\r\n"
        f"--b\r\n\r\nunsubscribe {HOST}\r\n"
        "--b\r\nContent-Type: text/html\r\n\r\n<p>Sale</p>\r\n--b--"
    )
    assert reason(OPTOUT, parts) == "body_optout_missing"


def test_a_link_in_a_part_that_is_not_shown_does_not_count() -> None:
    out = f"--b\r\nContent-Type: text/html\r\n\r\nUnsubscribe {LINK}\r\n"
    sale = "--b\r\nContent-Type: text/html\r\n\r\n<p>Sale</p>\r\n"
    for kind, body in (("alternative", out + sale), ("related", sale + out)):
        raw = f"{HEAD}Content-Type: multipart/{kind}; boundary=b\r\n\r\n{body}--b--"
        assert reason(OPTOUT, raw) == "body_optout_missing"
        assert reason(OPTOUT, raw.replace(kind, "mixed")) == "none"


def test_the_related_part_named_by_start_is_shown_instead_of_the_first() -> None:
    named = "--b\r\nContent-Type: text/html\r\nContent-ID: <root>\r\n\r\n"
    first = "--b\r\nContent-Type: text/html\r\n\r\n"
    out, sale = f"Unsubscribe {LINK}\r\n", "<p>Sale</p>\r\n"
    head = f"{HEAD}Content-Type: multipart/related; boundary=b; start=<root>\r\n\r\n"
    assert reason(OPTOUT, f"{head}{first}{out}{named}{sale}--b--") == "body_optout_missing"
    assert reason(OPTOUT, f"{head}{first}{sale}{named}{out}--b--") == "none"


ADDED = HEAD.replace("List-Unsubscribe: ", "X-Was: ")


def test_any_unsubscribe_link_counts_without_list_unsubscribe() -> None:
    """Where the relay adds the header, the text cannot repeat its link."""
    looked = features_of(OPTOUT, ADDED + "\r\nUnsubscribe: https://shop.example/leave").content
    assert looked is not None
    assert looked.shows_unsubscribe


def test_any_unsubscribe_link_counts_where_the_relay_replaces_the_field() -> None:
    replacing = replace(
        OPTOUT, unsubscribe_scope="marketing", existing_unsubscribe=ExistingUnsubscribe.REPLACE
    )
    for stream, shows in ((replacing, True), (OPTOUT, False)):
        look = features_of(stream, text("Unsubscribe: https://shop.example/leave")).content
        assert look is not None
        assert look.shows_unsubscribe is shows


@pytest.mark.parametrize(
    "link",
    [
        "",
        "https://localhost:8000/leave",
        "http://127.0.0.1/leave",
        "https://www.example.com/leave",
        "https://shop.example/*|UNSUB|*",
        "mailto:leave@example.org",
        "mailto:leave",
    ],
)
def test_a_link_to_nowhere_is_not_a_way_out(link: str) -> None:
    raw = ADDED + f"Content-Type: text/html\r\n\r\nUnsubscribe: <a href='{link}'>here</a>"
    nowhere = features_of(OPTOUT, raw).content
    assert nowhere is not None
    assert not nowhere.shows_unsubscribe


IMPRINT = replace(OFFERS, imprint=("ACME SA, 1 rue de l’Été, 75001 Paris", "ACME SA · BP 12"))
IMPRINTS = [
    (html("<p>ACME&nbsp;SA,<br>1 rue de l'&Eacute;t&eacute;,<br>75001&#160;PARIS</p>"), "none"),
    (text("acme sa,\r\n1 rue de\r\n l’été, 75001 paris"), "none"),
    (text("ACME SA · BP 12"), "none"),
    (text("ACME SA, 1 rue de l’Été, 75002 Paris"), "sender_unidentified"),
    (html("<p style=display:none>ACME SA · BP 12</p>x"), "sender_unidentified"),
    (text(""), "sender_unidentified"),
]


@pytest.mark.parametrize(("raw", "expected"), IMPRINTS)
def test_imprints(raw: str, expected: str) -> None:
    assert reason(IMPRINT, raw) == expected


HONEST = replace(OFFERS, honest_subject=True)
SUBJECTS = [
    ("Re: your order", "subject_misleading"),
    ("RE : -50 %", "subject_misleading"),
    ("=?utf-8?q?Re=3A_d=C3=A9j=C3=A0?=", "subject_misleading"),
    (" fwd:hello", "subject_misleading"),
    ("AW: Angebot", "subject_misleading"),
    ("TR: offre", "subject_misleading"),
    *(
        (f"{prefix}: offerta", "subject_misleading")
        for prefix in ("R", "I", "RIF", "RES", "Enc", "ODP", "VS", "VB", "Antw", "Doorst", "RV")
    ),
    ("PD: te echamos de menos", "none"),
    ("I love it: -50 %", "none"),
    ("Re[2]: hello", "subject_misleading"),
    ("=?utf-8?b?4oCLUmU6?= your order", "subject_misleading"),  # after an invisible character
    ("Re：your order", "subject_misleading"),
    ("=?UTF8?q?Ré=3A_d=C3=A9j=C3=A0?=".replace("é", "=65"), "subject_misleading"),
    ("=?utf-16be?b?AFIAZQA6ACAAbwByAGQAZQBy?=", "subject_misleading"),
    ("\u200e\u202aRe: your order", "subject_misleading"),  # after direction marks
    ("Ｒｅ: your order", "subject_misleading"),
    ("𝐑𝐞: your order", "subject_misleading"),
    ("Rentrée : -50 %", "none"),
    ("Refund: yours", "none"),
    ("Offers: Re: nothing", "none"),
    ("", "none"),
]


def test_a_message_without_a_subject_is_not_taken_for_a_reply() -> None:
    assert reason(HONEST, HEAD + "\r\n") == "none"


def test_the_subject_is_checked_wherever_the_text_is_read() -> None:
    both = replace(HONEST, body_optout=True)
    out = f"\r\nTo unsubscribe: {HOST}"
    assert reason(both, f"{HEAD}Subject: Re: your order\r\n{out}") == "subject_misleading"
    assert reason(both, f"{HEAD}Subject: Your order\r\n{out}") == "none"
    assert features_of(both, HEAD + out).content == ContentFeatures(shows_unsubscribe=True)


@pytest.mark.parametrize(("subject", "expected"), SUBJECTS)
def test_subjects(subject: str, expected: str) -> None:
    raw = f"{HEAD}Subject: {subject}\r\n\r\n"
    assert reason(HONEST, raw) == expected
    assert reason(OFFERS, raw) == "none"
    for answer in ("In-Reply-To: <1@x>", "References: <1@x>"):
        assert reason(HONEST, f"{HEAD}Subject: {subject}\r\n{answer}\r\n\r\n") == "none"
    for nothing in ("In-Reply-To:", "References: \r\n "):
        assert reason(HONEST, f"{HEAD}Subject: {subject}\r\n{nothing}\r\n\r\n") == expected


TYPES = "Content-Type: text/plain\r\nContent-Type: text/html\r\n"
IN_TWO_WAYS = [
    HEAD + TYPES + "\r\n<p hidden>Unsubscribe: https://u.shop.example/</p>",
    HEAD + "Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n\r\nx",
    HEAD + "Content-Disposition: inline\r\nContent-Disposition: attachment\r\n\r\nx",
    HEAD + "Subject: Your order\r\nSubject: -50 %\r\n\r\nx",
    # in the parts of a message
    HEAD + f"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{TYPES}\r\nx\r\n--b--",
    HEAD + "Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\nx\r\n--a--",
    HEAD + "Content-Type: text/plain; charset=utf-8; charset=utf-7\r\n\r\nx",
]
SAME_TWICE = (
    "Content-Type: text/plain; charset=utf-8\r\nContent-Type: Text/Plain;\r\n charset=UTF-8\r\n"
    "Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: 8BIT\r\n"
    "Subject: New shoes\r\nSubject: New shoes\r\nMIME-Version: 1.0\r\nMIME-Version: 1.0\r\n"
)


@pytest.mark.parametrize("raw", IN_TWO_WAYS)
def test_content_that_readers_see_differently_cannot_be_judged(raw: str) -> None:
    assert reason(OPTOUT, raw) == "header_malformed"
    if "boundary" not in raw and "charset" not in raw:  # visible from the header alone
        assert reason(OFFERS, raw) == reason(RECEIPTS, raw) == "header_malformed"
    assert reason(OPTOUT, f"{HEAD}{SAME_TWICE}\r\nUnsubscribe: {HOST}") == "none"


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Type: text\r\n",  # as written by mailx on Solaris
        "Content-Type: text/html charset=utf-8\r\n",
        "Content-Transfer-Encoding: quoted-printable;\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX-A : b\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nno field\r\n",
    ],
)
def test_content_some_programs_cannot_read_is_refused_only_where_it_identifies_the_sender(
    fields: str,
) -> None:
    raw = f"{HEAD}{fields}\r\nUnsubscribe: {HOST}"
    assert reason(OPTOUT, raw) == "header_malformed"
    assert reason(replace(RECEIPTS, bulk_recipients=100), raw) == "none"


RELAXED = replace(OFFERS, alignment=Alignment.RELAXED, from_domains=frozenset())
STRICT = replace(RELAXED, alignment=Alignment.STRICT)
SIGNED = "DKIM-Signature: v=1; a=rsa-sha256; bh=x; d={}; s=a;\r\n b=abc\r\n"
ALIGNMENTS: list[tuple[str, str, str, str]] = [
    # From, d=, relaxed, strict; the envelope sender is at bounces.shop.co.uk
    ("a@bounces.shop.co.uk", "", "none", "none"),
    ("a@shop.co.uk", "", "none", "from_misaligned"),
    ("a@other.co.uk", "", "from_misaligned", "from_misaligned"),
    ("a@other.co.uk", "other.co.uk", "none", "none"),
    ("a@news.other.co.uk", "Other.co.uk", "none", "from_misaligned"),
    ("a@other.co.uk", "co.uk", "from_misaligned", "from_misaligned"),
    ("a@shop.co.uk, b@other.co.uk", "", "from_misaligned", "from_misaligned"),
]


@pytest.mark.parametrize(("sender", "signer", "relaxed", "strict"), ALIGNMENTS)
def test_alignment(sender: str, signer: str, relaxed: str, strict: str) -> None:
    raw = HEAD.replace("Shop <shop@example.com>", sender)
    raw += (SIGNED.format(signer) if signer else "") + "\r\n"
    path = "b+1@bounces.shop.co.uk"
    assert reason(RELAXED, raw, path) == relaxed
    assert reason(STRICT, raw, path) == strict
    receipts = replace(RECEIPTS, alignment=Alignment.RELAXED)
    unlisted = raw.replace("List-Unsubscribe", "X-List")
    assert reason(receipts, unlisted, path) == relaxed


def test_under_strict_alignment_only_the_domain_itself_counts() -> None:
    look = ContentFeatures(
        senders=("news.example.com",),
        organisations=(("example.com", "example.com"), ("news.example.com", "example.com")),
    )
    message = replace(GOOD_MESSAGE, content=look)
    for stream, expected in ((RELAXED, "none"), (STRICT, "from_misaligned")):
        verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
        assert verdict is not None
        assert verdict.reason == expected


def test_the_null_reverse_path_aligns_with_nothing() -> None:
    assert reason(RELAXED, HEAD + "\r\n", "") == "from_misaligned"
    assert reason(RELAXED, HEAD + SIGNED.format("example.com") + "\r\n", "") == "none"


def test_a_signature_without_a_domain_aligns_with_nothing() -> None:
    unsigned = HEAD + "DKIM-Signature: v=1; a=rsa-sha256; b=abc\r\n\r\n"
    assert reason(RELAXED, unsigned, "b@example.com") == "none"
    assert reason(RELAXED, unsigned, "b@other.example") == "from_misaligned"


def test_the_relays_own_signature_counts_for_alignment() -> None:
    signed = replace(GOOD_MESSAGE, signed_by_relay=True)
    verdict = judge(Transaction((STRICT,), (), signed), {}, BOOK, NOW).message
    assert verdict is not None
    assert verdict.action is Action.ALLOW


def test_windows_punctuation_labelled_latin_1_is_read() -> None:
    """Browsers and mail programs read it too; much French application mail has it."""
    stream = replace(OPTOUT, imprint=("Le Nœud, 1 rue de l'Exemple",))
    body = "Je ne souhaite plus recevoir d’offres : {}\r\nLe Nœud, 1 rue de l’Exemple"
    head = HeaderBlock(f"{HEAD}Content-Type: text/plain; charset=iso-8859-1\r\n\r\n".encode())
    read = read_body(head, body.format(HOST).encode("windows-1252"))
    features = read_features(head, "X-Mail-Stream")
    content = check_content(stream, features, head, "", visible_text(read)).content
    assert content == ContentFeatures(shows_unsubscribe=True, shows_imprint=True)


STATING = replace(
    OFFERS, first_contact_notice=True, source_statement=("Your address is from Lists Ltd",)
)


def test_source_statements_in_the_text() -> None:
    said = features_of(STATING, html("<p>Your address is\r\nfrom <b>Lists Ltd</b>.</p>"))
    assert said.source_statement == "Your address is from Lists Ltd"
    assert features_of(STATING, html("<p>Lists Ltd</p>")).source_statement is None


OBSERVE = replace(RECEIPTS, bulk_recipients=100)
REFUSE = replace(OBSERVE, undeclared_bulk=UndeclaredBulk.REFUSE)
RECAST = replace(OBSERVE, undeclared_bulk=UndeclaredBulk.MARKETING)


def test_the_text_of_a_receipt_is_read_only_where_copies_are_counted() -> None:
    raw = f"{HEAD}\r\nView in your browser. In this issue: shoes."
    for stream, signs in ((OBSERVE, ("browser", "newsletter")), (RECEIPTS, ())):
        content = features_of(stream, raw).content
        assert (content or ContentFeatures()).bulk_text == signs


@pytest.mark.parametrize(("alike", "bulk"), [(0, False), (100, False), (101, True)])
def test_one_text_to_many(alike: int, bulk: bool) -> None:
    message = replace(GOOD_MESSAGE, content=ContentFeatures(alike=alike))

    def said(stream: Stream) -> Any:
        verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
        return verdict and verdict.reason

    assert said(REFUSE) == ("bulk_undeclared" if bulk else "none")
    assert said(OBSERVE) == "none"
    assert said(OFFERS) == "none"
    assert stream_in_force(RECAST, message, DEFAULT_STREAM) == (DEFAULT_STREAM if bulk else RECAST)
    assert stream_in_force(OBSERVE, message, DEFAULT_STREAM) == OBSERVE


def test_signs_of_bulk_do_not_exempt_mail_from_its_streams_limits() -> None:
    own = replace(RECAST, from_domains=frozenset({"shop.example"}), max_recipients=1)
    bulk = replace(
        GOOD_MESSAGE,
        from_domains=("shop.example",),
        recipients=1,
        content=ContentFeatures(alike=101),
    )
    assert stream_in_force(own, bulk, DEFAULT_STREAM) == DEFAULT_STREAM
    foreign = replace(bulk, from_domains=("bank.example",))
    for stray in (foreign, replace(bulk, recipients=2)):
        assert stream_in_force(own, stray, DEFAULT_STREAM) == own
    assert (
        stream_in_force(replace(own, mode=Mode.OBSERVE), foreign, DEFAULT_STREAM) == DEFAULT_STREAM
    )
    strict = replace(own, alignment=Alignment.STRICT, tracking_pixels=TrackingPixels.REFUSE)
    judged = stream_in_force(strict, bulk, DEFAULT_STREAM)
    assert (judged.name, judged.alignment, judged.tracking_pixels) == (
        "default",
        "strict",
        "refuse",
    )
    strips = replace(own, alignment=Alignment.RELAXED, tracking_pixels=TrackingPixels.STRIP)
    judged = stream_in_force(strips, bulk, DEFAULT_STREAM)
    assert (judged.alignment, judged.tracking_pixels) == ("relaxed", "strip")
    stricter = replace(DEFAULT_STREAM, alignment=Alignment.STRICT)
    assert stream_in_force(strips, bulk, stricter).alignment == "strict"


def test_possible_marketing_is_checked_as_marketing() -> None:
    asked = needs(Transaction((RECAST,), ("a@b.example",)), BOOK)
    assert asked.contacts
    assert asked.mailings
    assert not needs(Transaction((REFUSE,), ("a@b.example",)), BOOK).contacts
