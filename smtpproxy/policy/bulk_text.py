"""Phrases that newsletters contain and receipts do not (docs/bulk.md).

The phrases are folded as by `mail.visible_text.folded`, and a stem matches with any ending. Each
kind is one sign, however often and in however many phrases it occurs. Those of `UNSUBSCRIBE` are
chosen for precision: phrases that newsletters also use otherwise are left out. Those of `OPT_OUT`
are no sign: they only tell which link is for unsubscribing.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain


def listed(text: str) -> tuple[str, ...]:
    """Return the parts between commas, with single spaces."""
    return tuple(" ".join(word.split()) for word in text.split(","))


def by_language(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the lists of a text in which each begins a line with its language: `en: …`."""
    _, *found = re.split(r"^ +([a-z]{2}): ", text, flags=re.MULTILINE)
    return {lang: listed(words) for lang, words in zip(found[::2], found[1::2], strict=True)}


UNSUBSCRIBE = by_language(
    """
    en: unsubscribe, unsubscribing, opt out, opt-out, optout, opting out, stop receiving, no longer
        receive, no longer wish to receive, not to receive, don't want to receive, do not want to
        receive, do not wish to receive, mail preferences, mailing preferences, subscription
        preferences, communication preferences, manage your subscription, manage subscription,
        remove me from, be removed from, cancel your subscription
    fr: desinscri, desabonn, ne plus recevoir, souhaitez plus recevoir, souhaite plus recevoir,
        desirez plus recevoir, desire plus recevoir, voulez plus recevoir, veux plus recevoir,
        arreter de recevoir, cesser de recevoir, ne plus etre contacte, ne plus etre sollicite,
        retirer de la liste, retirer de cette liste, retirer mon adresse, retirer votre adresse,
        preferences de communication, preferences d'envoi, preferences d'e-mail, gerer mes
        abonnements, gerer vos abonnements, gerer vos preferences, gerer mes preferences, vous
        opposer a, m'opposer a, resilier votre abonnement
    de: abmelden, abmeldung, abzumelden, abbestell, abzubestellen, austragen, auszutragen, melden
        sie sich ab, melde dich ab, bestellen sie den newsletter ab, nicht mehr erhalten, nicht
        langer erhalten, keine weiteren e-mails, keine e-mails mehr, keinen newsletter mehr,
        newsletter kundigen, der nutzung widersprechen, dem erhalt widersprechen,
        e-mail-einstellungen
    es: darse de baja, darte de baja, dese de baja, date de baja, darme de baja, cancelar la
        suscripcion, cancelar su suscripcion, cancelar tu suscripcion, cancelar suscripcion, anular
        la suscripcion, anular su suscripcion, anular tu suscripcion, anular suscripcion, dejar de
        recibir, no recibir mas, no desea recibir, no deseas recibir, no quieres recibir, desuscrib,
        gestionar sus preferencias, gestionar tus preferencias, solicitar la baja
    it: disiscri, annulla iscrizione, annulla l'iscrizione, annullare l'iscrizione, annullare la
        sottoscrizione, cancella iscrizione, cancella l'iscrizione, cancellare l'iscrizione,
        cancellati, cancellarti dalla, cancellarsi dalla, non ricevere piu, non desideri piu
        ricevere, non desidera piu ricevere, non vuoi piu ricevere, smettere di ricevere, gestisci
        le preferenze, gestisci le tue preferenze, revocare il consenso
    nl: uitschrijv, schrijf je uit, schrijf u uit, schrijf je hier uit, afmelden, af te melden, meld
        je af, meld u af, meld je hier af, afmeldlink, uit te schrijven, abonnement opzeggen, niet
        meer ontvangen, geen e-mails meer, niet langer ontvangen, e-mailvoorkeuren, voorkeuren
        beheren, voorkeuren aanpassen
    pt: cancelar a subscricao, cancelar subscricao, cancelar a inscricao, cancelar inscricao,
        cancelar a sua subscricao, anular a subscricao, deixar de receber, nao receber mais,
        descadastr, remover a sua subscricao
    pl: wypisz sie, wypisac sie, rezygnacja z subskrypcji, zrezygnuj z subskrypcji, zrezygnowac z,
        anuluj subskrypcje, nie chcesz otrzymywac
    """
)
"""How to unsubscribe."""

OPT_OUT = by_language(
    """
    en: e-mail settings, email settings, manage my preferences, manage notifications, manage
        preferences, manage your notifications, manage your preferences, no longer interested in
        receiving, no longer interested in these, no longer want these, no longer want to get, no
        longer want to receive, not interested in receiving, notification preferences, notification
        settings, remove yourself from, stop getting our, stop getting these, stop these e-mails,
        stop these emails, take me off, turn off these
    fr: annuler mon abonnement, annuler mon inscription, annuler votre abonnement, annuler votre
        inscription, arreter les envois, fin a votre abonnement, fin a votre inscription, gerer les
        preferences, gerer mes alertes, gerer mes e-mails, gerer mes emails, gerer mes
        notifications, gerer vos alertes, gerer vos e-mails, gerer vos emails, gerer vos
        notifications, ne plus etre alerte, ne plus etre informe, ne plus etre notifie, ne plus etre
        prevenu, resilier mon abonnement, souhaitez plus etre, stopper ces e-mails, stopper ces
        emails, stopper les envois, supprimer mon adresse, supprimer votre adresse
    de: abo beenden, abo kundigen, abo verwalten, abonnement beenden, abonnement kundigen,
        abonnement verwalten, aus dem verteiler, benachrichtigungseinstellungen, einstellungen
        verwalten, keine informationen mehr, keine mails mehr, keine nachrichten mehr, keine
        newsletter mehr, keine weiteren informationen, keine weiteren mails, keine weiteren
        nachrichten, keine weiteren newsletter, keine werbung mehr, melde dich hier ab, melden sie
        sich hier ab, newsletter-einstellungen, nicht mehr beziehen, nicht mehr empfangen, nicht
        weiter erhalten, praferenzen verwalten
    es: administrar preferencias, administrar sus preferencias, administrar tus preferencias, anular
        mi suscripcion, baja de esta lista, baja de la newsletter, baja del boletin, cancelar mi
        suscripcion, desinscrib, eliminar mi direccion, eliminar su direccion, eliminar tu
        direccion, gestionar mis preferencias, gestionar preferencias, no quiere recibir, no quiero
        recibir, remover su direccion
    it: annulla la sottoscrizione, annulla la tua iscrizione, annullare la tua iscrizione, cancella
        la tua iscrizione, cancellare la tua iscrizione, cancellazione dalla, gestire le preferenze,
        gestire le tue preferenze, gestisci preferenze, non desidera ricevere, non desiderasse
        ricevere, non desideri ricevere, non vuoi ricevere, per cancellarti, rimuovere il tuo
        indirizzo, rimuovi il mio indirizzo
    nl: beheer je voorkeuren, beheer uw voorkeuren, beheer voorkeuren, geen berichten meer, geen
        mail meer, geen mails meer, geen nieuwsbrief meer, geen nieuwsbrieven meer, meld u hier af,
        schrijf u hier uit
    pt: cancelar a assinatura, cancelar assinatura, gerenciar preferencias, gerenciar suas
        preferencias, gerir as suas preferencias, gerir preferencias, nao deseja mais receber, nao
        deseja receber, nao quer mais receber, nao quer receber, nao quero mais receber, nao quero
        receber
    pl: nie chcesz juz otrzymywac, nie chcesz wiecej otrzymywac, wypisanie sie, wypisz mnie,
        zarzadzaj preferencjami, zarzadzaj subskrypcj
    """
)
"""The same, in phrases that receipts and notifications have too."""

SUBSCRIBED = by_language(
    """
    en: because you subscribed, because you are a subscriber, because you have subscribed, because
        you are on our, because you're on our, because you requested news, you are subscribed,
        you're subscribed, you are currently subscribed, you have subscribed to, you subscribed to,
        you opted in, you have opted in, this message was sent to subscribers, to all subscribers,
        you are on our mailing, on our mailing list, on this mailing list, from this mailing list,
        from our mailing list, removed from this list, removed from our list, remove yourself from,
        change your subscri, subscription changes, subscription information, subscriber information,
        subscription options, your subscription to this, you signed up for our, signed up to
        receive, you asked to receive
    fr: car vous etes abonn, parce que vous etes abonn, car vous etes inscrit, parce que vous etes
        inscrit, vous recevez cette newsletter, vous etes abonne, vous recevez cette lettre, car
        vous avez accepte de recevoir, liste de diffusion, vous vous etes inscrit a, vous avez
        souscrit a notre newsletter
    de: sie erhalten diesen newsletter, du erhaltst diesen newsletter, sie sich fur unseren, du dich
        fur unseren, weil sie den newsletter, weil du den newsletter, zum newsletter angemeldet,
        newsletter abonniert, aus unserem verteiler, in unserem verteiler, fur den newsletter
        angemeldet, fur unseren newsletter, newsletter-anmeldung
    es: porque te suscribiste, porque se suscribio, porque estas suscrit, porque esta suscrit,
        recibes este boletin, lista de correo, lista de distribucion, recibe este boletin, te has
        suscrito a, se ha suscrito a
    it: perche sei iscritt, perche ti sei iscritt, perche si e iscritt, mailing list, ricevi questa
        newsletter, hai ricevuto questa newsletter, iscritto alla newsletter, iscritto alla nostra
        newsletter, lista di distribuzione
    nl: omdat je bent ingeschreven, omdat u bent ingeschreven, omdat je je hebt, omdat u zich heeft,
        omdat u zich hebt, ontvangt deze nieuwsbrief, mailinglijst, je bent aangemeld voor, u bent
        aangemeld voor, onze verzendlijst
    pt: porque subscreveu, porque se inscreveu, porque voce se inscreveu, recebe esta newsletter,
        recebeu esta newsletter, lista de e-mails
    pl: poniewaz zapisal, poniewaz jestes zapisan, otrzymujesz ten newsletter, subskrybujesz,
        zapisales sie, zapisalas sie, lista mailingow
    """
)
"""The reader is a subscriber."""

BROWSER = by_language(
    """
    en: view online, read online, view this email online, view as a web page, view as web page, web
        version, webversion, online version, view as webpage, not displaying properly, not display
        properly, properly display, trouble viewing, trouble reading this, can't see this email,
        can't view this, cannot see this, can't see the images, having problems viewing, view this
        newsletter, read this newsletter online, full-color, html version of, text version of, plain
        text format, to launch it in, can't read this, cannot read this, unable to read this, unable
        to view this, difficulty viewing, problems reading this, view in browser, view in your
        browser, view in a browser, view it in your browser, view it in a browser, view this in,
        view this email in, view this message in, view this e-mail in, view email in, view the email
        in, view newsletter in, read in browser, read in your browser, read it in your browser, open
        in browser, open in your browser, see this email in, see it in your browser, email in your
        browser, e-mail in your browser, message in your browser, newsletter in your browser, email
        in a browser, view in web browser, launch it in your browser
    fr: version en ligne, version web, s'affiche pas correctement, visualiser ce message, voir en
        ligne, lire en ligne, consulter en ligne, afficher en ligne, ne parvenez pas a lire,
        n'arrivez pas a lire, voir dans votre navigateur, afficher dans votre navigateur, lire dans
        votre navigateur, voir dans le navigateur, message dans votre navigateur, mail dans votre
        navigateur, mail dans le navigateur, newsletter dans votre navigateur
    de: webansicht, online-version, onlineversion, online-ansicht, nicht richtig dargestellt, nicht
        korrekt dargestellt, nicht richtig angezeigt, nicht korrekt angezeigt, darstellungsprobleme,
        newsletter online, online ansehen, online lesen, fehlerhaft dargestellt, probleme mit der
        darstellung, e-mail nicht lesen konnen, nicht lesen kannst, mail nicht lesbar, im browser
        ansehen, im browser anzeigen, im browser lesen, im browser betrachten, ansicht im browser,
        newsletter im browser, mail im browser, nachricht im browser
    es: version online, version web, ver en linea, no se ve correctamente, no puedes ver, no puede
        ver este, no puedes leer este, no puede leer este, ver en tu navegador, ver en su navegador,
        ver en el navegador, verlo en tu navegador, verlo en su navegador, correo en tu navegador,
        mail en tu navegador, mensaje en tu navegador, mail en el navegador
    it: versione online, versione web, visualizza online, non visualizzi correttamente, non
        visualizza correttamente, non riesci a leggere, non riesci a visualizzare, non riesce a
        visualizzare, visualizza nel browser, visualizza nel tuo browser, vedi nel browser, guarda
        nel browser, leggi nel browser, mail nel browser, mail nel tuo browser, messaggio nel
        browser
    nl: webversie, online versie, onlineversie, bekijk online, niet goed weergegeven, niet correct
        weergegeven, niet goed lezen, niet goed te lezen, bekijk in je browser, bekijk in uw
        browser, bekijk in de browser, bekijk deze e-mail in, bekijk deze nieuwsbrief in, mail in je
        browser, mail in uw browser, nieuwsbrief in je browser, lees in je browser
    pt: versao online, versao web, ver online, nao consegue visualizar, nao consegue ver este, ver
        no navegador, veja no navegador, visualizar no navegador, ver no browser, veja no seu
        navegador, mail no navegador, mail no seu navegador, mensagem no navegador
    pl: wersja online, wersje online, nie wyswietla sie poprawnie, zobacz w przegladarce, wyswietl w
        przegladarce, wiadomosc w przegladarce, newsletter w przegladarce
    """
)
"""The message can be viewed in a browser."""

NEWSLETTER = by_language(
    """
    en: this newsletter, newsletter #, weekly newsletter, monthly newsletter, daily newsletter,
        e-zine, ezine, in this issue, this week's issue, back issues, past issues, previous issues,
        our sponsor, sponsored by, advertise in, advertise with, advertiser, advertisement, to
        subscribe, forward to a friend, forward it to a friend, forward this to, tell a friend,
        press release, for immediate release, today's headlines, top stories, special offer, limited
        time offer, shop now, while supplies last, offer expires, offer ends, offer valid, terms and
        conditions of the offer
    fr: cette newsletter, notre newsletter, cette lettre d'information, offre valable, dans ce
        numero, partager a un ami, transferer a un ami, j'en profite, communique de presse, offre
        non cumulable, dans la limite des stocks
    de: dieser newsletter, dieses newsletters, newsletter vom, unser newsletter, unseren ersten
        newsletter, dieser ausgabe, aktuelle angebote, angebote ab, unsere angebote, an freunde
        weiter, newsletter weiterempfehlen, jetzt kaufen, jetzt bestellen, jetzt shoppen, nur
        solange der vorrat, gultig bis, pressemitteilung, newsletter versendet
    es: este boletin, esta newsletter, oferta valida, en este numero, comprar ahora, reenviar a un
        amigo, hasta agotar existencias, nota de prensa
    it: questa newsletter, la nostra newsletter, offerta valida, in questo numero, inoltra a un
        amico, acquista ora, fino a esaurimento, comunicato stampa
    nl: deze nieuwsbrief, onze nieuwsbrief, in dit nummer, aanbieding geldig, stuur door naar een
        vriend, shop nu, zolang de voorraad, persbericht
    pt: esta newsletter, oferta valida, nesta edicao, compre agora, comprar agora, enquanto durarem
        os estoques, comunicado de imprensa
    pl: ten newsletter, naszego newslettera, w tym numerze, oferta wazna, kup teraz, do wyczerpania
        zapasow
    """
)
"""The message calls itself news or an offer."""

_KINDS = {
    kind: tuple(dict.fromkeys(phrase for phrases in languages.values() for phrase in phrases))
    for kind, languages in (
        ("subscribed", SUBSCRIBED),
        ("browser", BROWSER),
        ("newsletter", NEWSLETTER),
        ("unsubscribe", UNSUBSCRIBE),
    )
}
_FOR_UNSUBSCRIBING = frozenset(chain.from_iterable((*UNSUBSCRIBE.values(), *OPT_OUT.values())))


def unsubscribe_mentions(text: str) -> Iterator[tuple[int, int]]:
    """Where folded text contains phrases for unsubscribing, in order."""
    for found in _for_unsubscribing().finditer(text):
        longest = found[1]
        for length in range(1, len(longest) + 1):  # it may begin with a shorter one
            if longest[:length] in _FOR_UNSUBSCRIBING:
                yield found.start(), found.start() + length


def mentions_unsubscribing(text: str) -> bool:
    """Whether folded text contains a phrase for unsubscribing."""
    return _for_unsubscribing().search(text) is not None


@cache
def _for_unsubscribing() -> re.Pattern[str]:
    """Matches wherever a phrase begins; its group is the longest that does.

    A letter is compared once for all phrases: to look for each in turn takes three times as long.
    """
    tree: _Tree = {}
    for phrase in _FOR_UNSUBSCRIBING:
        branch = tree
        for letter in phrase:
            branch = branch.setdefault(letter, {})
        branch[""] = {}
    return re.compile(f"(?=({_pattern(tree)}))")


_Tree = dict[str, "_Tree"]
"""What may follow, by its first letter; "" where a phrase may end."""


def _pattern(tree: _Tree) -> str:
    ways = sorted(re.escape(letter) + _pattern(rest) for letter, rest in tree.items() if letter)
    return f"(?:{'|'.join(ways)})" + "?" * ("" in tree) if ways else ""


def newsletter_signs(text: str) -> tuple[str, ...]:
    """Return which of the kinds a folded text has, such as "subscribed" or "unsubscribe"."""
    return tuple(
        kind for kind, phrases in _KINDS.items() if any(phrase in text for phrase in phrases)
    )
