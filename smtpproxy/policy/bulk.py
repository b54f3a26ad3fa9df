"""How undeclared bulk mail is recognised (docs/bulk.md).

A header field that only list and campaign software writes is decisive. Fields usual in bulk mail,
which the same senders put on receipts too, have a weight: if it is small, the subject or sender
must also indicate offers or news; if it is large, the message is bulk unless its subject or sender
indicates the reader's own affairs. If the header is inconclusive, the text may decide, by two of
the signs of a newsletter.

The words are folded as by `mail.visible_text.folded`: no case, no accents. A word of more than five
letters matches with any ending.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.mime import decode_words
from smtpproxy.mail.visible_text import folded
from smtpproxy.policy.bulk_text import by_language, listed, newsletter_signs

PERSONAL_WORDS = by_language(
    """
    en: receipt, invoice, payment, paid, refund, billing, statement, your bill, your order,
        ordered:, purchase, transaction, shipped, shipping confirm, shipment, delivered, delivery,
        dispatched, on its way, tracking, your package, return label, your return, booking,
        reservation, itinerary, e-ticket, your ticket, boarding, check-in, appointment, reminder:
        your, password, passcode, verification, verify, confirm your, confirmation, activate your,
        sign-in, sign in, signin, log in, login, log-in, code is, your code, access code, one-time,
        two-factor, 2-step, your subscription, renewal, renewed, expires, expiring, your request,
        case #, [ticket, support request, your message, your application, your policy, your claim,
        your contract, transfer, withdrawal, deposit, card ending, has been cancel, canceled,
        cancelled, cancellation, failed, declined, overdue, past due, due on, welcome to, invited
        you, shared a, mentioned you, assigned, sent you, new message from, order, account,
        registration, registered, security, authenticat, email address, e-mail address, has changed,
        been changed, approved, denied, confirmed, activated, deactivated, reset, email changed,
        email removed, e-mail changed, e-mail removed, recovery code, registering, waiting list,
        waitinglist, waitlist
    fr: facture, recu de, votre recu, paiement, remboursement, releve de compte, confirmation,
        expedi, livraison, livre, colis, suivi de, reservation, votre billet, votre rendez-vous, mot
        de passe, votre code, code de, verification, verifiez, confirmez, connexion, bienvenue,
        votre compte, votre demande, votre dossier, votre contrat, virement, prelevement, echeance,
        annulation, annule, votre abonnement, authentification, cle de, adresse e-mail, adresse
        mail, a ete modifie, a change, commande, inscription confirmee, inscription a, refuse,
        approuve, compte client, reinitialis, modification de, liste d'attente, compte tiers, ce
        compte, compte inconnu, mail modifie, mail retire, codes de recuperation, enregistre, vos
        ordres
    de: rechnung, quittung, zahlung, bezahlt, erstattung, gutschrift, kontoauszug, bestellung,
        bestellbestatigung, bestatigung, versand, versendet, lieferung, zugestellt, paket, sendung,
        buchung, reservierung, ihr ticket, termin, willkommen, passwort, kennwort, code, bestatigen,
        anmeldung, ihr konto, dein konto, ihre anfrage, deine anfrage, ihr vertrag, storn, mahnung,
        uberweisung, kundenkonto, benutzerkonto, anmeldecode, sicherheit, registrierung,
        e-mail-adresse, geandert, anderung, authenti, deaktiviert, aktiviert, bestatigt,
        zurucksetzen, genehmigt, abgelehnt, warteliste, drittanbieterkonto, registrieren,
        wiederherstellungscode, e-mail entfernt
    es: factura, recibo, pago, reembolso, confirmacion, confirma tu, confirme su, enviado, envio,
        entrega, reserva, tu billete, cita, contrasena, codigo, verifica, inicio de sesion, tu
        solicitud, su solicitud, transferencia, cancelad, clave de, autenticacion, registro, correo
        electronico, ha cambiado, denegad, rechazad, aprobad, pedido, restablec, seguridad, cuenta,
        lista de espera, registrarse, registrarte
    it: fattura, ricevuta, pagamento, rimborso, conferma, spedit, spediz, consegna, prenotazione,
        biglietto, appuntamento, password, codice, verifica, accesso, la tua richiesta, bonifico,
        annullat, autenticazione, chiave di, indirizzo, account, ordine, iscrizione a, rifiutat,
        approvat, sicurezza, reimposta, modifiche al, lista d'attesa, mail modificata, mail rimossa,
        codici di recupero, registrazione, i tuoi ordini
    nl: factuur, betaling, betaald, terugbetaling, bestelling, bevestig, verzonden, verzending,
        bezorg, levering, pakket, boeking, reservering, afspraak, wachtwoord, code, inloggen, uw
        aanvraag, geannuleerd, aanmeld, authenticat, beveilig, sleutel, e-mailadres, emailadres,
        gewijzigd, account, registratie, afgewezen, goedgekeurd, opnieuw instellen, wachtlijst,
        registreren, herstelcode
    pt: fatura, recibo, pagamento, reembolso, sua encomenda, confirma, enviado, envio, entrega,
        reserva, bilhete, consulta, senha, codigo, sua conta, transferencia, cancelad, nota fiscal,
        boleto, autentica, chave de, endereco, alterado, alterada, pedido, inscricao, recusad,
        aprovad, seguranca, redefin, conta, lista de espera, palavra-passe, e-mail removido,
        registrar, registar, suas ordens
    pl: faktur, rachunek, platnosc, zwrot, zamowieni, potwierd, wyslan, dostaw, przesylk, rezerwacj,
        bilet, wizyta, haslo, hasla, kod, logowani, konto, uwierzytel, bezpiecz, hasło, hasła, adres
        e-mail, płatność, konta, kontem, rejestrac, zmienion, wysłan, przesyłk, odrzucon,
        zatwierdzon, weryfik, listy rezerwowej, mail usuniety, kody odzyskiwania
    """
)
"""Words of receipts, codes and appointments: mail that one person has occasioned."""

OFFER_WORDS = by_language(
    """
    en: sale, % off, $ off, save up to, save $, save on, deals, deal of, discount, special offer,
        exclusive, limited time, last chance, ends tonight, ends soon, don't miss, hurry, free
        shipping, coupon, promo, clearance, black friday, cyber monday, gift guide, new arrivals,
        new collection, just dropped, back in, shop now, best seller, bestseller, newsletter,
        digest, weekly, monthly, this week, this month, webinar, join us, introducing, what's new,
        top picks, announcing, recommended for you, you might like, trending, roundup, issue #,
        early access, giveaway, win a, earn, bonus, upgrade now, try it free, free trial, tips, how
        to, survey, we miss you, come back, season, holiday, left in your cart, forgot something,
        still thinking
    fr: solde, promo, % de r, remise, offre, bon plan, bons plans, profitez, derniere chance,
        derniers jours, exclusi, nouvelle collection, nouveaute, livraison offerte, livraison
        gratuite, cadeau, infolettre, lettre d'information, vente privee, ventes privees, decouvrez,
        a ne pas manquer, actualites
    de: rabatt, angebot, aktion, sale, % auf, sparen, spare, gutschein, nur heute, letzte chance,
        neue kollektion, neuheiten, entdecke, gratisversand, gewinnspiel, jetzt sichern, rundbrief,
        exklusiv
    es: oferta, descuento, rebaja, promocion, ahorra, ultima oportunidad, boletin, ultimos dias,
        novedades, envio gratis, exclusiv, descubre, no te pierdas
    it: offert, sconto, sconti, saldi, promozion, risparmia, ultima occasione, novita, spedizione
        gratuita, esclusiv, scopri, non perdere
    nl: korting, aanbieding, actie, uitverkoop, bespaar, laatste kans, nieuwsbrief, nieuwe
        collectie, gratis verzending, exclusief, ontdek, mis het niet
    pt: oferta, desconto, promoc, liquidac, economize, poupe, ultima oportunidade, novidade, frete
        gratis, exclusiv, descubra, nao perca
    pl: promocj, rabat, wyprzedaz, znizk, okazj, ostatnia szansa, nowosci, darmowa dostawa, odkryj,
        biuletyn
    """
)
"""Words of offers and news, which go to many."""

NEWS_SENDERS = listed(
    """
    news, newsletter, newsletters, marketing, offer, offers, promo, promos, promotion,
    promotions, deal, deals, campaign, campaigns, digest, specials, editor, editors, angebote,
    aktion, offres, actualites, actu, boletin, ofertas, offerte, nieuwsbrief, aanbiedingen,
    novidades
    """
)
"""Words in the local part, or the first label of the domain, of senders to many."""

PERSONAL_SENDERS = listed(
    """
    receipt, receipts, order, orders, invoice, invoices, billing, payment, payments, confirm,
    confirmation, shipment, shipping, tracking, delivery, security, account, accounts, password,
    verify, verification, booking, bookings, reservations, ticket, tickets, support, statements,
    alerts, rechnung, bestellung, facture, factures, commande, commandes, factuur, fatture,
    facturas, pedidos, transactional, service, auto
    """
)
"""The same, of senders to one person."""


# Lower-case names of fields that only list servers and campaign software write.
_DECISIVE = frozenset(
    b"""
    list-post list-subscribe list-archive list-owner x-mailing-list mailing-list x-beenthere
    x-mailman-version x-listmember x-list-id x-campaign x-campaign-id x-campaignid x-campaign-name
    campaign-id x-mc-user x-mailchimp-campaign x-mailin-campaign x-roving-id x-campaign-activity-id
    x-kmail-account x-kmail-message x-hs-cid x-marketoid x-mailer-lid x-mailer-sid
    x-mailerlite-campaign x-acymailing x-mailpoet x-phplist-version x-listmonk-campaign
    x-mautic-campaign x-sendy x-newsletter x-newsletter-id x-bulkmail x-bulk-mail x-subscriber-id
    x-subscriberid x-ac-campaign x-mailing-id
    """.split()
)
# Fields that are on receipts too, with their weights. Those that senders of receipts add by default
# count once together (RFC 2369, RFC 8058, Feedback-ID); then RFC 2919, Precedence, which itself
# says bulk, and the fields of large senders.
_USUAL: tuple[tuple[int, list[bytes]], ...] = (
    (1, b"list-unsubscribe list-unsubscribe-post list-help feedback-id x-feedback-id".split()),
    (1, [b"list-id"]),
    (2, [b"precedence"]),
    (
        1,
        b"""
        x-job x-sfmc-stack x-rpcampaign x-emarsys-id x-cm-message-id x-mailgun-campaign-id
        x-mj-campaign x-mailjet-campaign x-sib-campaign x-csa-complaints x-csa-compliance-source
        """.split(),
    ),
)
_HEAVY = 3
_BULK = re.compile(rb"\s*(?:bulk|list|junk)\s*", re.IGNORECASE)
_MAILER = re.compile(
    rb".*\b(mailchimp|mailpoet|phplist|sendy|acymailing|listmonk|mautic|campaign ?monitor"
    rb"|active ?campaign|emarsys|mailerlite|sendinblue|brevo|newsletter|acelle|interspire"
    rb"|salesforce marketing|dotdigital|hubspot|klaviyo|getresponse|group ?mail|bulk)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_NAMES = _DECISIVE | {name for _, sign in _USUAL for name in sign} | {b"x-mailer"}
_LONGEST = 500  # octets of a field that are searched


def _any_of(languages: Mapping[str, Sequence[str]]) -> re.Pattern[str]:
    """A pattern grouped by first character, so that a subject is not compared with every word."""
    words = sorted({folded(word) for words in languages.values() for word in words})
    starts = [
        re.escape(first) + "(?:" + "|".join(_rest(word) for word in group) + ")"
        for first, group in groupby(words, key=lambda word: word[0])
    ]
    return re.compile(f"(?<![a-z])(?:{'|'.join(starts)})")


def _rest(word: str) -> str:
    short = len(word) <= 5 and word.isalpha()
    return re.escape(word[1:]) + ("(?![a-z])" if short else "")


_OFFER, _PERSONAL = _any_of(OFFER_WORDS), _any_of(PERSONAL_WORDS)
_WORD = re.compile(r"[a-z]+")
# The number of an order, an invoice or a case: `#1234`, `100200300`, `F3K9P`.
_NUMBER = re.compile(
    r"#\s?\d{3}|(?<!\w)\d{6,}|(?<!\w)(?=[A-Z-]*\d)(?=[\d-]*[A-Z])[A-Z\d-]{5,}(?!\w)"
)


class BulkSigns(Struct, frozen=True):
    """The signs by which a message was recognised as bulk; empty if it was not.

    `fields` are lower-case names of header fields, `text` the signs in its text: "subscribed",
    "browser", "newsletter", "unsubscribe".
    """

    fields: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


class _Fields(Struct, frozen=True):
    """The decisive and the usual fields in a header, and the weight of the usual ones."""

    decisive: list[bytes]
    usual: list[bytes]
    weight: int


_NOTHING = BulkSigns()
_MIN_SIGNS = 2
"""How many signs in text, List-Unsubscribe and offers make a message bulk."""
_FRAME = frozenset({"browser", "unsubscribe"})
"""Signs that campaign software puts around receipts too: they need fields with weight beside
them."""
_MIN_WEIGHT = 2
LONGEST_TEXT = 65_536
"""Characters of the text that are searched."""


def bulk_signs(headers: HeaderBlock, text: str | None = None) -> BulkSigns:
    """Recognise bulk by its header or, if that is inconclusive, by its text.

    `text` is folded; None if it was not read. See `asks_for_text`.
    """
    found = _fields(headers)
    fields = [*found.decisive, *found.usual]
    if found.decisive:
        return _signs(fields)
    if not found.usual and text is None:
        return _NOTHING
    offers = _offers(headers)
    personal, heavy = _is_personal(headers), found.weight >= _HEAVY
    if found.usual and ((heavy and b"subject" in offers) or (not personal and (heavy or offers))):
        return _signs(fields + offers)
    if personal or text is None:
        return _NOTHING
    text_signs = newsletter_signs(text[:LONGEST_TEXT])
    way_out = b"list-unsubscribe" in found.usual and "unsubscribe" not in text_signs
    if len(text_signs) + way_out + bool(offers) < _MIN_SIGNS:
        return _NOTHING
    if not offers and found.weight < _MIN_WEIGHT and _FRAME.issuperset(text_signs):
        return _NOTHING
    return _signs(fields + offers, text_signs)


def asks_for_text(headers: HeaderBlock) -> bool:
    """Whether the header has inconclusive signs of bulk and none of the reader's own affairs."""
    found = _fields(headers)
    if found.decisive or not found.usual or _is_personal(headers):
        return False
    return found.weight < _HEAVY and not _offers(headers)


def _signs(fields: Sequence[bytes], text: tuple[str, ...] = ()) -> BulkSigns:
    return BulkSigns(tuple(name.decode("ascii") for name in fields), text)


def _fields(headers: HeaderBlock) -> _Fields:
    found = headers.values_by_name(_NAMES)
    if not found:
        return _NO_FIELDS
    decisive = [name for name in found if name in _DECISIVE]
    if any(_MAILER.fullmatch(value[:_LONGEST]) for value in found.get(b"x-mailer", ())):
        decisive.append(b"x-mailer")
    if not any(_BULK.fullmatch(value[:_LONGEST]) for value in found.get(b"precedence", ())):
        found.pop(b"precedence", None)
    weight, usual = 0, []
    for each, names in _USUAL:
        present = [name for name in names if name in found]
        weight += each if present else 0
        usual += present
    return _Fields(decisive, usual, weight)


_NO_FIELDS = _Fields([], [], 0)


def _offers(headers: HeaderBlock) -> list[bytes]:
    """Which of Subject and From indicate offers or news."""
    found = [b"subject"] if _OFFER.search(folded(_subject(headers))) else []
    return found if _sender(headers).isdisjoint(NEWS_SENDERS) else [*found, b"from"]


def _is_personal(headers: HeaderBlock) -> bool:
    """Whether Subject or From indicate one person's own affairs."""
    subject = _subject(headers)
    own = _PERSONAL.search(folded(subject)) or _NUMBER.search(subject)
    return own is not None or not _sender(headers).isdisjoint(PERSONAL_SENDERS)


def _subject(headers: HeaderBlock) -> str:
    values = headers.values("Subject")
    return decode_words(values[0][:_LONGEST].decode("utf-8", "replace")) if values else ""


def _sender(headers: HeaderBlock) -> frozenset[str]:
    """The words in the local part and in the first label of the domain of From."""
    values = headers.values("From")
    try:
        found = addresses(values[0][: 4 * _LONGEST]) if values else []
    except MailboxError:
        return frozenset()
    words: set[str] = set()
    for address in found[:1]:
        local, _, domain = address.lower().rpartition("@")
        words.update(_WORD.findall(local), _WORD.findall(domain.partition(".")[0]))
    return frozenset(words)
