"""The words of the closed sets in French; in English most are their own words.

Whatever speaks of them to people shares these: explanations, evidence documents, reports.
"""

from smtpproxy.policy.words.lang import Lang

_TERMS_FR = {
    # bases
    "consent": "consentement",
    "existing_customer": "client existant",
    "professional": "professionnel",
    "charity": "association caritative",
    "generic_address": "adresse générique",
    "transactional": "message transactionnel",
    "opt_out": "absence d’opposition",
    # audiences and sources
    "consumer": "consommateur",
    "generic": "générique",
    "unknown": "inconnu",
    "direct": "auprès de la personne",
    "web": "trouvée sur internet",
    "harvested": "aspirée",
    "guessed": "devinée",
    "purchased": "achetée",
    "rented": "louée",
    "exchanged": "échangée",
    "partner": "partenaire",
    # methods
    "unticked_box": "case à cocher",
    "double_opt_in": "double confirmation",
    "signed_form": "formulaire signé",
    "verbal_recorded": "accord oral enregistré",
    "preticked_box": "case précochée",
    "implied": "implicite",
    "silence": "silence",
    # proof
    "wording": "texte présenté",
    "version": "version du texte",
    "form": "formulaire",
    "ip": "adresse IP",
    "document_hash": "empreinte du document",
    # origins and scopes
    "unsubscribe": "désinscription",
    "complaint": "plainte",
    "bounce": "rejet du serveur",
    "objection": "opposition",
    "erasure": "effacement",
    "manual": "saisie manuelle",
    "external": "liste externe",
    "all": "tout envoi",
    "marketing": "prospection",
    # reasons
    "suppressed_unsubscribe": "désinscription",
    "suppressed_complaint": "plainte",
    "suppressed_bounce": "rejet du serveur",
    "suppressed_objection": "opposition",
    "suppressed_erasure": "effacement",
    "suppressed_manual": "interdiction saisie",
    "suppressed_external": "liste externe",
    "no_record": "adresse inconnue",
    "contact_restricted": "contact restreint",
    "source_forbidden": "origine interdite",
    "source_undisclosed": "expéditeur non annoncé à la collecte",
    "source_unproven": "origine non prouvée",
    "source_not_announced": "origine non annoncée au premier message",
    "consent_missing": "consentement absent",
    "consent_withdrawn": "consentement retiré",
    "consent_preticked": "case précochée",
    "consent_conditional": "consentement conditionnel",
    "consent_unproven": "consentement non prouvé",
    "consent_channel": "consentement pour un autre canal",
    "consent_expired": "consentement expiré",
    "customer_stale": "dernier achat trop ancien",
    "product_not_similar": "produit non analogue",
    "source_not_direct": "adresse non recueillie directement",
    "notice_missing": "personne non informée",
    "optout_not_offered": "refus non proposé à la collecte",
    "topic_unrelated": "sans rapport avec la profession",
    "inactive": "contact inactif",
    "stream_paused": "flux suspendu",
    "frequency_cap": "plafond de fréquence",
    "list_stale": "liste trop ancienne",
    "null_mx": "domaine sans courrier",
    "header_malformed": "en-tête illisible",
    "stream_not_permitted": "flux non permis",
    "sender_not_permitted": "expéditeur non permis",
    "unsubscribe_missing": "désinscription absente",
    "unsubscribe_malformed": "désinscription inutilisable",
    "one_click_missing": "désinscription en un clic absente",
    "recipients_refused": "autres destinataires refusés",
    "temporary_failure": "panne temporaire",
    "body_optout_missing": "désinscription absente du texte",
    "sender_unidentified": "expéditeur non identifié",
    "bulk_undeclared": "envoi en nombre non déclaré",
    "unsubscribe_unsigned": "désinscription non signée",
    "from_misaligned": "signature d’un autre domaine",
    "subject_misleading": "objet trompeur",
    # verdicts
    "allow": "autorisé",
    "refuse": "refusé",
    "defer": "différé",
}

_TERMS_EN = {  # where the word itself could be misread
    "unticked_box": "box that they ticked",
    "double_opt_in": "double opt-in",
    "verbal_recorded": "recorded oral agreement",
    "preticked_box": "box ticked in advance",
}


def term(word: object, lang: Lang) -> str:
    """Return a word of the closed sets as people read it; without one of its own, the word."""
    text = str(word)
    scope, _, purpose = text.partition(":")
    if scope == "purpose" and purpose:
        return f"finalité {purpose}" if lang == "fr" else f"purpose {purpose}"
    if lang == "fr":
        return _TERMS_FR.get(text, text)
    return _TERMS_EN.get(text, text.replace("_", " "))
