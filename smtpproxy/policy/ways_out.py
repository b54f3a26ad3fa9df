"""Words by which messages show their readers a way out, as data.

Folded as `mail.shown.folded` folds text: no case, no accents. A stem stands for all its endings.
Precision first: a word that newsletters use for anything else as well is not here.
"""

PHRASES: dict[str, tuple[str, ...]] = {
    "en": (
        *("unsubscribe", "unsubscribing", "opt out", "opt-out", "optout", "opting out"),
        *("stop receiving", "no longer receive", "no longer wish to receive", "not to receive"),
        *("don't want to receive", "do not want to receive", "do not wish to receive"),
        *("email preferences", "e-mail preferences", "mail preferences", "mailing preferences"),
        *("subscription preferences", "communication preferences", "manage your subscription"),
        *("manage subscription", "remove me from", "be removed from", "cancel your subscription"),
    ),
    "fr": (
        *("desinscri", "desabonn", "desinscrip", "ne plus recevoir", "ne souhaitez plus recevoir"),
        *("ne desirez plus recevoir", "ne voulez plus recevoir", "arreter de recevoir"),
        *("preferences de communication", "preferences d'envoi", "preferences d'e-mail"),
        *("gerer mes abonnements", "gerer vos abonnements", "gerer vos preferences"),
        *("gerer mes preferences", "vous opposer a", "resilier votre abonnement"),
    ),
    "de": (
        *("abmelden", "abmeldung", "abzumelden", "abbestell", "abzubestellen", "austragen"),
        *("auszutragen", "melden sie sich ab", "melde dich ab", "bestellen sie den newsletter ab"),
        *("nicht mehr erhalten", "nicht langer erhalten", "keine weiteren e-mails"),
        *("keine e-mails mehr", "keinen newsletter mehr", "newsletter kundigen"),
        *("der nutzung widersprechen", "dem erhalt widersprechen", "e-mail-einstellungen"),
    ),
    "es": (
        *("darse de baja", "darte de baja", "dese de baja", "date de baja", "darme de baja"),
        *("cancelar la suscripcion", "cancelar su suscripcion", "cancelar tu suscripcion"),
        *("cancelar suscripcion", "anular la suscripcion", "anular su suscripcion"),
        *("anular tu suscripcion", "anular suscripcion", "dejar de recibir", "no recibir mas"),
        *("no desea recibir", "no deseas recibir", "no quieres recibir", "desuscrib"),
        *("gestionar sus preferencias", "gestionar tus preferencias", "solicitar la baja"),
    ),
    "it": (
        *("disiscri", "disiscriv", "annulla iscrizione", "annulla l'iscrizione"),
        *("annullare l'iscrizione", "annullare la sottoscrizione", "cancella iscrizione"),
        *("cancella l'iscrizione", "cancellare l'iscrizione", "cancellati", "cancellarti dalla"),
        *("cancellarsi dalla", "non ricevere piu", "non desideri piu ricevere"),
        *("non desidera piu ricevere", "non vuoi piu ricevere", "smettere di ricevere"),
        *("gestisci le preferenze", "gestisci le tue preferenze", "revocare il consenso"),
    ),
    "nl": (
        *("uitschrijv", "schrijf je uit", "schrijf u uit", "schrijf je hier uit", "afmelden"),
        *("af te melden", "meld je af", "meld u af", "meld je hier af", "afmeldlink"),
        *("uit te schrijven", "abonnement opzeggen", "niet meer ontvangen", "geen e-mails meer"),
        *(
            "niet langer ontvangen",
            "e-mailvoorkeuren",
            "voorkeuren beheren",
            "voorkeuren aanpassen",
        ),
    ),
    "pt": (
        *("cancelar a subscricao", "cancelar subscricao", "cancelar a inscricao"),
        *("cancelar inscricao", "cancelar a sua subscricao", "anular a subscricao"),
        *("deixar de receber", "nao receber mais", "descadastr", "remover a sua subscricao"),
    ),
    "pl": (
        *("wypisz sie", "wypisac sie", "rezygnacja z subskrypcji", "zrezygnuj z subskrypcji"),
        *("zrezygnowac z", "anuluj subskrypcje", "nie chcesz otrzymywac"),
    ),
}

_ALL = tuple(dict.fromkeys(phrase for phrases in PHRASES.values() for phrase in phrases))


def speaks_of_a_way_out(text: str) -> bool:
    """Whether folded text holds any of the phrases."""
    return any(phrase in text for phrase in _ALL)
