"""Words in subjects and addresses that tell offers to many from one person's own matter, as data.

Folded as `mail.shown.folded` folds text: no case, no accents. A word of more than five letters
stands for all its endings.
"""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


OWN = {
    "en": _listed(
        """
        receipt, invoice, payment, paid, refund, billing, statement, your bill, order confirm, order
        no, order #, your order, order received, order update, ordered:, purchase, transaction,
        shipped, shipping confirm, shipment, delivered, delivery, dispatched, on its way, tracking,
        your package, return label, your return, booking, reservation, itinerary, e-ticket, your
        ticket, boarding, check-in, appointment, reminder: your, password, passcode, verification,
        verify, confirm your, confirmation, activate your, security alert, sign-in, sign in, signin,
        log in, login, log-in, code is, your code, access code, one-time, two-factor, 2-step, your
        account, account has been, your subscription, renewal, renewed, expires, expiring, your
        request, case #, [ticket, support request, your message, your application, your policy, your
        claim, your contract, your appointment, transfer, withdrawal, deposit, card ending, has been
        cancel, canceled, cancelled, cancellation, failed, declined, overdue, past due, due on,
        welcome to, invited you, shared a, mentioned you, assigned, sent you, new message from,
        order, account, registration, registered, security, authenticat, email address, e-mail
        address, has changed, been changed, approved, denied, confirmed, activated, deactivated,
        reset
        """
    ),
    "fr": _listed(
        """
        facture, recu de, votre recu, paiement, remboursement, releve de compte, commande n, votre
        commande, confirmation, expedi, livraison, livre, colis, suivi de, reservation, votre
        billet, votre rendez-vous, mot de passe, votre code, code de, verification, verifiez,
        confirmez, connexion, bienvenue, votre compte, votre demande, votre dossier, votre contrat,
        virement, prelevement, echeance, annulation, annule, votre abonnement, authentification, cle
        de securite, cle de, adresse e-mail, adresse mail, a ete modifie, a change, commande,
        inscription confirmee, inscription a, refuse, approuve, compte client, reinitialis,
        modification de
        """
    ),
    "de": _listed(
        """
        rechnung, quittung, zahlung, bezahlt, erstattung, gutschrift, kontoauszug, bestellung,
        bestellbestatigung, bestatigung, versand, versendet, lieferung, zugestellt, paket, sendung,
        buchung, reservierung, ihr ticket, termin, willkommen, passwort, kennwort, code, bestatigen,
        anmeldung, ihr konto, dein konto, ihre anfrage, deine anfrage, ihr vertrag, storn, mahnung,
        uberweisung, kundenkonto, benutzerkonto, anmeldecode, sicherheit, registrierung,
        e-mail-adresse, geandert, anderung, authenti, deaktiviert, aktiviert, bestatigt,
        zurucksetzen, genehmigt, abgelehnt
        """
    ),
    "es": _listed(
        """
        factura, recibo, pago, reembolso, tu pedido, su pedido, pedido n, confirmacion, confirma tu,
        confirme su, enviado, envio, entrega, entregado, reserva, tu billete, cita, contrasena,
        codigo, verifica, inicio de sesion, tu cuenta, su cuenta, tu solicitud, su solicitud,
        transferencia, cancelad, clave de, autenticacion, registro, correo electronico, ha cambiado,
        denegad, rechazad, aprobad, pedido, pedidos, restablec, seguridad, cuenta
        """
    ),
    "it": _listed(
        """
        fattura, ricevuta, pagamento, rimborso, il tuo ordine, ordine n, conferma, spedit, spediz,
        consegna, prenotazione, biglietto, appuntamento, password, codice, verifica, accesso, il tuo
        account, la tua richiesta, bonifico, annullat, autenticazione, chiave di, indirizzo,
        account, ordine, iscrizione confermata, iscrizione a, rifiutat, approvat, sicurezza,
        reimposta, modifiche al
        """
    ),
    "nl": _listed(
        """
        factuur, betaling, betaald, terugbetaling, bestelling, bevestig, verzonden, verzending,
        bezorg, levering, pakket, boeking, reservering, afspraak, wachtwoord, code, inloggen, je
        account, uw account, uw aanvraag, geannuleerd, aanmeld, authenticat, beveilig, sleutel,
        e-mailadres, emailadres, gewijzigd, account, registratie, afgewezen, goedgekeurd, opnieuw
        instellen
        """
    ),
    "pt": _listed(
        """
        fatura, recibo, pagamento, reembolso, seu pedido, sua encomenda, confirma, enviado, envio,
        entrega, reserva, bilhete, consulta, senha, codigo, sua conta, transferencia, cancelad, nota
        fiscal, boleto, autentica, chave de, endereco, alterado, alterada, pedido, pedidos,
        inscricao, recusad, aprovad, seguranca, redefin, conta
        """
    ),
    "pl": _listed(
        """
        faktur, rachunek, platnosc, zwrot, zamowieni, potwierd, wyslan, dostaw, przesylk, rezerwacj,
        bilet, wizyta, haslo, hasla, kod, logowani, konto, uwierzytel, bezpiecz, hasło, hasła, adres
        e-mail, płatność, płatności, platnosci, konta, kontem, zamówieni, rejestrac, zmienion,
        potwierdz, wysłan, przesyłk, odrzucon, zatwierdzon, weryfik
        """
    ),
}
"""Of a receipt, a code, an appointment: mail that one person has occasioned."""

OFFER = {
    "en": _listed(
        """
        sale, % off, $ off, save up to, save $, save on, deals, deal of, discount, special offer,
        exclusive, limited time, last chance, ends tonight, ends soon, don't miss, hurry, free
        shipping, coupon, promo, clearance, black friday, cyber monday, gift guide, new arrivals,
        new collection, just dropped, back in, shop now, best seller, bestseller, newsletter,
        digest, weekly, monthly, this week, this month, webinar, join us, introducing, what's new,
        top picks, announcing, recommended for you, you might like, trending, roundup, issue #,
        early access, giveaway, win a, earn, bonus, upgrade now, try it free, free trial, tips, how
        to, survey, we miss you, come back, season, holiday, left in your cart, forgot something,
        still thinking
        """
    ),
    "fr": _listed(
        """
        solde, promo, % de r, remise, offre, bon plan, bons plans, profitez, derniere chance,
        derniers jours, exclusi, nouvelle collection, nouveaute, livraison offerte, livraison
        gratuite, cadeau, infolettre, lettre d'information, vente privee, ventes privees, decouvrez,
        a ne pas manquer, actualites
        """
    ),
    "de": _listed(
        """
        rabatt, angebot, aktion, sale, % auf, sparen, spare, gutschein, nur heute, letzte chance,
        neue kollektion, neuheiten, entdecken, entdecke, gratisversand, gewinnspiel, jetzt sichern,
        rundbrief, exklusiv
        """
    ),
    "es": _listed(
        """
        oferta, descuento, rebaja, promocion, ahorra, ultima oportunidad, boletin, ultimos dias,
        novedades, envio gratis, exclusiv, descubre, no te pierdas
        """
    ),
    "it": _listed(
        """
        offert, sconto, sconti, saldi, promozion, risparmia, ultima occasione, novita, spedizione
        gratuita, esclusiv, scopri, non perdere
        """
    ),
    "nl": _listed(
        """
        korting, aanbieding, actie, uitverkoop, bespaar, laatste kans, nieuwsbrief, nieuwe
        collectie, gratis verzending, exclusief, ontdek, mis het niet
        """
    ),
    "pt": _listed(
        """
        oferta, desconto, promoc, liquidac, economize, poupe, ultima oportunidade, novidade, frete
        gratis, exclusiv, descubra, nao perca
        """
    ),
    "pl": _listed(
        """
        promocj, rabat, wyprzedaz, znizk, okazj, ostatnia szansa, nowosci, darmowa dostawa, odkryj,
        biuletyn
        """
    ),
}
"""Of offers and news, which go to many."""

NEWS_SENDERS = _listed(
    """
    news, newsletter, newsletters, marketing, offer, offers, promo, promos, promotion,
    promotions, deal, deals, campaign, campaigns, digest, specials, editor, editors, angebote,
    aktion, offres, actualites, actu, boletin, ofertas, offerte, nieuwsbrief, aanbiedingen,
    novidades
    """
)
"""Words of the local part, or of the first label of the domain, of who sends to many."""

OWN_SENDERS = _listed(
    """
    receipt, receipts, order, orders, invoice, invoices, billing, payment, payments, confirm,
    confirmation, shipment, shipping, tracking, delivery, security, account, accounts, password,
    verify, verification, booking, bookings, reservations, ticket, tickets, support, statements,
    alerts, rechnung, bestellung, facture, factures, commande, commandes, factuur, fatture,
    facturas, pedidos, transactional, service, auto
    """
)
"""The same, of who writes to one."""
