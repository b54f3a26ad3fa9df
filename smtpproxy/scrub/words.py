"""What each verdict means, in plain words for people who plan a campaign.

docs/reasons.md has the rules behind them. French shares the sentences of explanations.
"""

from collections.abc import Mapping

from smtpproxy.policy.words.lang import Lang, typeset
from smtpproxy.policy.words.phrase import Phrase, has_words, say

_REASONS = {
    "suppressed_unsubscribe": "They unsubscribed from this kind of mail. Take them off the list;"
    " only a consent that they give later opens the way again.",
    "suppressed_complaint": "They reported mail as spam. Take them off the list for good.",
    "suppressed_bounce": "Mail to these addresses came back for good. Take them off the list.",
    "suppressed_objection": "They objected to this kind of mail. An objection needs no reason and"
    " holds until they lift it themselves.",
    "suppressed_erasure": "They had their data erased, and must not be mailed again because an"
    " old list still has them. Erase them there too.",
    "suppressed_manual": "Somebody of your own put these addresses on the list of those who are"
    " not to be mailed.",
    "suppressed_external": "They are on a do-not-mail list that was taken over from elsewhere.",
    "no_record": "Nothing is known of these addresses: not where they are from, nor that anybody"
    " agreed. Import what you know of them, with its proof, or leave them out.",
    "contact_restricted": "They are marked as private addresses that were not given for bulk mail.",
    "source_forbidden": "They were taken from the web, harvested or guessed. No mail may go to"
    " addresses obtained so.",
    "source_undisclosed": "They came from somebody else, and it is not on record that this sender"
    " was named when they were collected.",
    "source_unproven": "It is not on record where these addresses are from.",
    "source_not_announced": "A first message has to say where the address is from.",
    "consent_missing": "Nobody agreed to mail of this purpose, and there is no other basis.",
    "consent_withdrawn": "They agreed and took it back, and that is their last word.",
    "consent_preticked": "Their agreement came by a pre-ticked box or by silence, which is none."
    " Ask them again, with a box that they tick themselves.",
    "consent_conditional": "Their agreement was made a condition of a service, so it was not free.",
    "consent_unproven": "Their agreement cannot be proven: what they agreed to, when or how is not"
    " on record, or a double opt-in was not confirmed.",
    "consent_channel": "They agreed to something else than e-mail.",
    "consent_expired": "They agreed, but have not been heard of for too long.",
    "customer_stale": "They were customers, but their last purchase is too long ago.",
    "product_not_similar": "They are customers, but of other products than this stream sells.",
    "source_not_direct": "They are customers, but did not give the address themselves.",
    "notice_missing": "They were not told, when the address was collected, that it would be used"
    " for such mail.",
    "optout_not_offered": "They were given no simple way to refuse when the address was collected.",
    "topic_unrelated": "They are professionals, but the topic is not that of their work.",
    "inactive": "They have not been heard of for too long.",
    "stream_paused": "The stream is paused: they may be mailed when it goes on.",
    "frequency_cap": "They have had as much mail as may be sent for now: try again later.",
    "list_stale": "A list of objections that has to be fresh is too old: bring it up to date.",
}

_BASES = {
    "consent": "They agreed to mail of this purpose.",
    "existing_customer": "They are customers, and this is about similar products.",
    "professional": "The mail is about their work.",
    "charity": "They support the charity.",
    "generic_address": "The address is that of an organisation, not of a person.",
    "transactional": "The mail sells nothing.",
    "opt_out": "Mail is lawful until they object, and they did not.",
}

_ELSEWHERE = "docs/reasons.md explains it."


LABELS: Mapping[Lang, Mapping[str, str]] = {
    "en": {
        "title": "{name} for stream {stream}",
        "everybody": "Everybody on this list may be mailed on stream",
        "some": "{allowed} of {total}",
        "may": "may be mailed on stream",
        "empty": "The list is empty.",
        "lines": "lines",
        "allowed": "may be mailed",
        "refused": "refused",
        "deferred": "not now",
        "unreadable": "unreadable",
        "duplicates": "duplicates",
        "reasons": "Why the others may not",
        "reason": "reason",
        "bases": "Why these may",
        "basis": "basis",
        "of_all": "of all",
        "about": "About this report",
        "list": "List",
        "stream": "Stream",
        "rulebook": "Rulebook",
        "at": "Judged as of",
        "marketing": "marketing",
        "transactional": "transactional",
        "purpose": "purpose {purpose}",
        "foot": "A duplicate is a mailbox that stands further up in the list too; it is counted"
        " with its verdict as well. Unreadable lines were not judged. The relay judges every"
        " recipient again when the mail is sent: who unsubscribes after this report is not mailed.",
    },
    "fr": {
        "title": "{name} pour le flux {stream}",
        "everybody": "On peut écrire à toute cette liste sur le flux",
        "some": "{allowed} sur {total}",
        "may": "peuvent recevoir un envoi sur le flux",
        "empty": "La liste est vide.",
        "lines": "lignes",
        "allowed": "autorisées",
        "refused": "refusées",
        "deferred": "différées",
        "unreadable": "illisibles",
        "duplicates": "doublons",
        "reasons": "Pourquoi les autres sont écartées",
        "reason": "motif",
        "bases": "Pourquoi celles-ci sont autorisées",
        "basis": "base légale",
        "of_all": "du total",
        "about": "À propos de ce rapport",
        "list": "Liste",
        "stream": "Flux",
        "rulebook": "Référentiel",
        "at": "Examen à la date du",
        "marketing": "prospection",
        "transactional": "transactionnel",
        "purpose": "finalité {purpose}",
        "foot": typeset(
            "Un doublon est une boîte qui figure déjà plus haut dans la liste ; il est aussi compté"
            " avec son verdict. Les lignes illisibles n’ont pas été examinées. Le relais examine de"
            " nouveau chaque destinataire au moment de l’envoi : on n’écrit pas à qui se désinscrit"
            " après ce rapport.",
            "fr",
        ),
    },
}


def of_reason(reason: str, lang: Lang = "en") -> str:
    if lang == "en":
        return _REASONS.get(reason, _ELSEWHERE)
    return _principle(reason, lang)


def of_basis(basis: str, lang: Lang = "en") -> str:
    return _BASES.get(basis, "") if lang == "en" else _principle(basis, lang)


def _principle(word: str, lang: Lang) -> str:
    key = f"why.{word}"
    return say(Phrase(key), lang) if has_words(key) else ""
