"""Explanations in French. Keys and placeholders are those of `en.py`.

The vocabulary is the CNIL's. Ordinary spaces do here: `lang.typeset` puts the no-break ones.
"""

from smtpproxy.policy.words.fr_advice import CHANGE, WHY
from smtpproxy.policy.words.fr_labels import LABELS

_HAPPENED = {
    "was.allow": "L’envoi à {who} a été autorisé sur le flux {stream} : {cause}. {why}",
    "was.refuse": "L’envoi à {who} a été refusé sur le flux {stream} : {cause}. {why}",
    "was.defer": "L’envoi à {who} a été différé sur le flux {stream} : {cause}. {why}",
    "would.allow": "L’envoi à {who} serait autorisé sur le flux {stream} : {cause}. {why}",
    "would.refuse": "L’envoi à {who} serait refusé sur le flux {stream} : {cause}. {why}",
    "would.defer": "L’envoi à {who} serait différé sur le flux {stream} : {cause}. {why}",
    "was.message.allow": "Le message lui-même a été accepté sur le flux {stream} : {cause}.",
    "was.message.refuse": "Le message a été refusé sur le flux {stream} : {cause}. {why}",
    "was.message.defer": "Le message a été différé sur le flux {stream} : {cause}. {why}",
    "would.message.allow": "Le message lui-même serait accepté sur le flux {stream} : {cause}.",
    "would.message.refuse": "Le message serait refusé sur le flux {stream} : {cause}. {why}",
    "would.message.defer": "Le message serait différé sur le flux {stream} : {cause}. {why}",
    "untold": "le motif enregistré est « {reason} »",
    "untold.basis": "la base légale enregistrée est « {reason} »",
    "undecided": (
        "Aucune règle n’a été examinée pour ce destinataire, le message lui-même n’étant pas"
        " accepté."
    ),
    "not_yet": "rien ne s’y opposait encore",
    "retold": (
        "Ce qui est enregistré fait foi. Examinées de nouveau, les règles ne donnent pas la même"
        " réponse : le référentiel, ou ce qui est conservé sur la personne, a changé depuis."
    ),
    "no_rulebook": (
        "Les étapes ne peuvent être exposées : le référentiel {rulebook} n’est plus configuré."
    ),
    "whole.was": (
        "Ce destinataire n’a pourtant rien reçu, le message n’étant pas passé dans son ensemble."
    ),
    "whole.would": (
        "Ce destinataire ne recevrait pourtant rien, le message ne passant pas dans son ensemble."
    ),
    "own.answer": (
        "Réponse du serveur de messagerie derrière le relais pour ce destinataire : {reply}"
    ),
    "observed.was": "Le flux était en mode observation : le message est passé malgré tout.",
    "observed.would": "Le flux est en mode observation : le message passe malgré tout.",
    "others": "Toutes les autres règles doivent en outre être respectées.",
}

_OUTCOMES = {
    "outcome.allow": "autorisé",
    "outcome.refuse": "refusé",
    "outcome.defer": "différé",
    "outcome.passed": "ne décide pas",
}

_RULES = {
    "rule.suppression": "L’adresse est-elle sur la liste repoussoir ?",
    "rule.transactional": "Est-ce un message transactionnel ?",
    "rule.withdrawn": "Le consentement a-t-il été retiré ?",
    "rule.generic_address": "Est-ce l’adresse d’un organisme ?",
    "rule.no_record": "L’adresse est-elle connue ?",
    "rule.restricted": "Le contact est-il exclu des envois en nombre ?",
    "rule.source": "D’où vient l’adresse ?",
    "rule.consent": "Y a-t-il un consentement valable ?",
    "rule.existing_customer": "La personne est-elle cliente ?",
    "rule.charity": "Est-ce l’envoi d’une association à un soutien ?",
    "rule.professional": "Est-ce en rapport avec la profession de la personne ?",
    "rule.opt_out": "L’envoi est-il licite tant que la personne ne s’oppose pas ?",
    "rule.nearest_basis": "Y a-t-il une autre base légale ?",
    "rule.source_announced": "Le premier message indique-t-il d’où vient l’adresse ?",
    "rule.paused": "Le flux est-il suspendu ?",
    "rule.header": "L’en-tête est-il lisible ?",
    "rule.sender": "Le flux peut-il écrire sous ce nom d’expéditeur ?",
    "rule.unsubscribe_present": "Y a-t-il un moyen de se désinscrire ?",
    "rule.unsubscribe_usable": "La désinscription est-elle utilisable ?",
    "rule.one_click": "Un clic suffit-il pour se désinscrire ?",
    "rule.unsubscribe_signed": "La désinscription est-elle signée ?",
    "rule.alignment": "Quelqu’un répond-il du domaine de l’expéditeur ?",
    "rule.body_optout": "Le texte montre-t-il comment se désinscrire ?",
    "rule.imprint": "Le texte dit-il qui est l’expéditeur ?",
    "rule.subject": "L’objet dit-il vrai ?",
    "rule.bulk": "Est-ce un envoi en nombre ?",
    "rule.message": "Toutes les règles sur les messages sont-elles respectées ?",
    "rule.stream_uncertain": "De quel flux relève l’envoi ?",
    "rule.frequency": "La personne a-t-elle déjà reçu le maximum de messages ?",
    "rule.null_mx": "Le domaine du destinataire reçoit-il du courrier ?",
    "rule.list_stale": "La liste des oppositions est-elle à jour ?",
}

_PASSED = {
    "passed.suppression": (
        "aucune inscription sur la liste repoussoir dont la portée couvre le flux {stream}"
    ),
    "passed.suppression.yields": (
        "aucune inscription sur la liste repoussoir dont la portée couvre le flux {stream} ne"
        " tient : {yields}"
    ),
    "yields": "l’inscription du {since} ({origin}) cède au consentement donné le {given}",
    "yielding": "{basis} ; {yields}",
    "passed.transactional": (
        "le flux {stream} relève de la prospection : une base légale est nécessaire"
    ),
    "passed.withdrawn": "le consentement à « {purpose} » n’est pas retiré",
    "passed.generic_address": (
        "la partie de l’adresse avant @ ne figure pas sur la liste des fonctions"
    ),
    "passed.generic_address.audience": "le public enregistré est « {audience} », non générique",
    "passed.generic_address.mailboxes": "{domain} fournit des boîtes à des particuliers",
    "passed.no_record": "l’adresse est enregistrée",
    "passed.no_record.none": (
        "l’adresse n’est pas enregistrée, et le référentiel {rulebook} ne l’exige pas"
    ),
    "passed.restricted": "le contact ne porte pas l’étiquette {tags}",
    "passed.restricted.none": "aucune étiquette n’exclut des envois en nombre",
    "passed.source": "l’adresse a été recueillie auprès de la personne",
    "passed.source.accepted": "le référentiel {rulebook} admet l’origine « {source} »",
    "passed.source.supplier": (
        "l’origine est « {source} », et le fournisseur avait annoncé le présent expéditeur"
    ),
    "passed.source.suppliers": (
        "l’origine est « {source} », et chacun des {hands} fournisseurs avait annoncé le présent"
        " expéditeur"
    ),
    "passed.consent": "aucun consentement à « {purpose} » n’est enregistré",
    "passed.existing_customer": "aucun achat n’est enregistré",
    "passed.charity": "le flux {stream} n’est pas celui d’une association caritative",
    "passed.charity.since": (
        "le flux {stream} n’est pas celui d’une association caritative, ou le contact n’a pas été"
        " recueilli depuis le {since}"
    ),
    "passed.professional": "le contact n’est pas connu comme professionnel",
    "passed.paused": "le flux {stream} n’est pas suspendu",
    "passed.frequency": "la personne n’a pas encore reçu le maximum de messages",
    "passed.null_mx": "le domaine ne déclare pas qu’il ne reçoit aucun courrier",
    "passed.list_stale": "chaque liste qui doit être à jour l’est",
    "passed.source_announced": "ce n’est pas le premier message à la personne",
    "passed.source_announced.direct": (
        "la personne a donné l’adresse elle-même : il n’y a pas à en indiquer l’origine"
    ),
    "passed.source_announced.said": "le message indique d’où vient l’adresse",
    "passed.header": "l’en-tête est lisible ; l’expéditeur (From) est de {domains}",
    "passed.sender": "le domaine de l’expéditeur (From) est de ceux du flux",
    "passed.unsubscribe_present": "il y a un champ List-Unsubscribe",
    "passed.unsubscribe_added": "le relais l’ajoute, comme le flux {stream} le demande",
    "passed.unsubscribe_usable": "List-Unsubscribe contient 1 adresse utilisable",
    "passed.unsubscribe_usable.many": "List-Unsubscribe contient {uris} adresses utilisables",
    "passed.unsubscribe_usable.decoded": "{found}, après décodage de mots encodés",
    "passed.one_click": "il y a une adresse https et un champ List-Unsubscribe-Post exact",
    "passed.one_click.optional": "le flux {stream} n’exige pas la désinscription en un clic",
    "passed.unsubscribe_signed": "une signature DKIM valable de {domains} la couvre",
    "passed.unsubscribe_signed.none": "le message est arrivé sans signature DKIM",
    "passed.unsubscribe_signed.relay": "le relais la signe",
    "passed.unsubscribe_signed.unchecked": "ses signatures DKIM n’ont pas été vérifiées",
    "passed.alignment": (
        "l’expéditeur de l’enveloppe ou une signature est du domaine de l’adresse From"
    ),
    "passed.alignment.off": "le flux {stream} ne l’exige pas",
    "passed.alignment.relay": "le relais signe pour le domaine de l’adresse From",
    "passed.body_optout": "le texte en parle, et un lien permet de se désinscrire",
    "passed.body_optout.off": "le flux {stream} ne l’exige pas",
    "passed.imprint": "les mentions de l’expéditeur figurent dans le texte",
    "passed.imprint.off": "le flux {stream} ne dit pas quelles mentions chercher",
    "passed.subject": "il ne se fait pas passer pour une réponse",
    "passed.subject.off": "le flux {stream} ne l’exige pas",
    "passed.bulk": "rien n’indique un envoi en nombre",
    "passed.bulk.observed": "{found} ; le flux {stream} le laisse passer",
    "bulk.markers": "son en-tête contient {fields}",
    "bulk.alike": "le même texte était destiné à {alike} personnes, le maximum étant de {most}",
    "message.kept": "toutes les règles pour les messages du flux {stream} sont respectées",
    "uncertain.would": "sur le flux {stream}, la réponse serait : {verdict}",
    "uncertain.allow": (
        "un flux dont l’envoi peut encore relever ne le refuse pas : pas encore de refus"
    ),
    "verdict.allow": "autorisé",
    "verdict.basis": "autorisé, base légale : {word}",
    "verdict.refuse": "refusé, {word}",
    "verdict.defer": "différé, {word}",
}

_BASES = {
    "basis.transactional": "le flux {stream} est transactionnel",
    "basis.generic_address": "l’adresse est celle d’un organisme, non d’une personne",
    "basis.consent": "la personne a consenti à « {purpose} » le {given} ({method}) ; {last}",
    "basis.existing_customer": "{customer}{within}",
    "basis.existing_customer.told": "{customer}{within} et, lors de la collecte, {told}",
    "customer.bought": "la personne a acheté un produit du flux {stream}",
    "customer.asked": "la personne a acheté ou demandé un produit du flux {stream}",
    "customer.any": "la personne est cliente",
    "customer.within": ", depuis {period} au plus",
    "customer.any_time": "toute durée",
    "basis.charity": "le flux {stream} est celui d’une association caritative ; {last}",
    "basis.charity.told": (
        "le flux {stream} est celui d’une association caritative ; lors de la collecte, la"
        " personne {told} ; {last}"
    ),
    "basis.professional": "la personne est contactée à titre professionnel{topic} ; {last}",
    "basis.professional.told": (
        "la personne est contactée à titre professionnel et, lors de la collecte, {told}{topic} ;"
        " {last}"
    ),
    "professional.topic": ", et le sujet est celui de sa profession",
    "basis.opt_out": (
        "l’envoi est licite tant que la personne ne s’oppose pas, et aucune opposition n’est"
        " enregistrée"
    ),
    "told.notice": "a été informée de cet usage",
    "told.optout": "a pu refuser",
    "last": "dernière activité le {last}",
    "last.none": "aucune activité n’est enregistrée",
    "why.transactional": "Un tel message ne vend rien : il ne demande aucun consentement.",
    "why.generic_address": (
        "Les règles de la prospection protègent les personnes, non les services d’un organisme."
    ),
    "why.consent": "Qui a consenti peut recevoir ces messages, jusqu’au retrait du consentement.",
    "why.existing_customer": (
        "On peut écrire à un client au sujet de produits analogues, tant qu’il ne s’oppose pas."
    ),
    "why.charity": (
        "Une association caritative peut écrire à ses soutiens, tant qu’ils ne s’opposent pas."
    ),
    "why.professional": (
        "On peut écrire à un professionnel au sujet de sa profession, tant qu’il ne s’oppose pas."
    ),
    "why.opt_out": "Une opposition y mettrait fin aussitôt.",
}

_REASONS = {
    "reason.suppressed_unsubscribe": (
        "la personne s’est désinscrite le {since} ; cela vaut pour {covers}{widened}"
    ),
    "reason.suppressed_complaint": (
        "la personne a signalé un message comme indésirable le {since} ; cela vaut pour"
        " {covers}{widened}"
    ),
    "reason.suppressed_bounce": (
        "un message à cette adresse est revenu définitivement le {since} ; cela vaut pour"
        " {covers}{widened}"
    ),
    "reason.suppressed_objection": (
        "la personne s’est opposée aux envois le {since} ; cela vaut pour {covers}{widened}"
    ),
    "reason.suppressed_erasure": (
        "la personne a fait effacer ses données le {since} ; cela vaut pour {covers}{widened}"
    ),
    "reason.suppressed_manual": (
        "l’adresse a été inscrite à la main sur la liste repoussoir le {since} ; cela vaut pour"
        " {covers}{widened}"
    ),
    "reason.suppressed_external": (
        "l’adresse figure depuis le {since} sur une liste d’opposition venue d’ailleurs ; cela"
        " vaut pour {covers}{widened}"
    ),
    "reason.no_record": "rien n’est connu de cette adresse",
    "reason.contact_restricted": (
        "le contact porte l’étiquette {tag} : il est exclu des envois en nombre"
    ),
    "reason.source_forbidden": "l’origine de l’adresse est interdite ({source})",
    "reason.source_undisclosed": (
        "l’origine est « {source} », et aucun fournisseur enregistré n’avait annoncé le présent"
        " expéditeur lors de la collecte"
    ),
    "reason.source_undisclosed.long": (
        "l’origine est « {source} », par {hands} intermédiaires : il ne peut y en avoir plus de"
        " {longest}"
    ),
    "reason.source_undisclosed.hand": (
        "l’origine est « {source} », et l’intermédiaire {number} sur {hands}, {who} n’avait pas"
        " annoncé le présent expéditeur lors de la collecte"
    ),
    "hand.unnamed": "dont le nom n’est pas enregistré,",
    "reason.source_unproven": "aucune origine connue de l’adresse n’est enregistrée",
    "reason.source_not_announced": (
        "c’est le premier message à la personne, et il n’indique pas d’où vient l’adresse"
    ),
    "reason.consent_missing": (
        "aucun consentement à « {purpose} » n’est enregistré, ni aucune autre base légale"
    ),
    "reason.consent_withdrawn": (
        "la personne a retiré son consentement à « {purpose} » le {withdrawn}"
    ),
    "reason.consent_preticked": (
        "le consentement du {given} a été recueilli par un mode qui n’est pas un acte positif"
        " ({method})"
    ),
    "reason.consent_conditional": "le consentement du {given} était une condition du service",
    "reason.consent_unproven": (
        "il manque au consentement du {given} un mode actif ou une preuve ({evidence})"
    ),
    "reason.consent_unproven.pending": "la demande du {given} n’a pas été confirmée",
    "reason.consent_unproven.later": (
        "le consentement à « {purpose} » est daté du {given}, dans l’avenir"
    ),
    "reason.consent_channel": "le consentement du {given} ne vaut pas pour le courriel",
    "reason.consent_expired": (
        "{last} : le consentement vaut {consent_period} à compter de celle-ci"
    ),
    "reason.customer_stale": "aucun achat ne date de {customer_period} au plus",
    "reason.product_not_similar": "aucun achat ne porte sur un produit du flux {stream}",
    "reason.product_not_similar.lately": (
        "aucun achat datant de {customer_period} au plus ne porte sur un produit du flux {stream}"
    ),
    "period.inquiry": "{period} ({inquiry} pour une demande)",
    "reason.source_not_direct": "l’adresse n’a pas été recueillie auprès de la personne",
    "reason.notice_missing": "aucune information donnée lors de la collecte n’est enregistrée",
    "reason.optout_not_offered": "aucun moyen de refuser n’a été offert lors de la collecte",
    "reason.topic_unrelated": (
        "aucun sujet du flux {stream} ne correspond à une profession enregistrée"
    ),
    "reason.topic_unrelated.profiling": (
        "la personne s’est opposée au profilage, et aucun sujet du flux {stream} ne correspond à"
        " une profession qu’elle ait indiquée elle-même"
    ),
    "reason.inactive": "{last} : les envois doivent cesser {activity_period} après",
    "method.none": "mode inconnu",
    "reason.stream_paused": "le flux {stream} est suspendu",
    "reason.null_mx": "le domaine du destinataire déclare qu’il ne reçoit aucun courrier (MX nul)",
    "reason.frequency_cap": "la personne a reçu pour l’instant le maximum de messages",
    "reason.frequency_cap.until": (
        "la personne a reçu le maximum de messages ({count} en {period}) ; le suivant pourra partir"
        " après le {free_at}"
    ),
    "reason.list_stale": "une liste d’opposition qui doit être à jour est trop ancienne",
    "reason.header_malformed": "l’en-tête est illisible ({malformed})",
    "malformed.from": "pas d’adresse d’expéditeur dans From",
    "reason.stream_not_permitted": "le flux que le message désigne ne lui est pas permis",
    "reason.sender_not_permitted": (
        "l’expéditeur (From) est de {strangers}, qui n’est pas un domaine du flux {stream}"
    ),
    "reason.unsubscribe_missing": "il n’y a pas de champ List-Unsubscribe",
    "reason.unsubscribe_malformed": (
        "List-Unsubscribe ne contient ni adresse https avec un serveur, ni adresse mailto avec un"
        " destinataire"
    ),
    "reason.unsubscribe_malformed.placeholder": (
        "List-Unsubscribe contient encore {found}, une variable du modèle restée sans valeur"
    ),
    "reason.unsubscribe_malformed.characters": (
        "List-Unsubscribe contient {found}, interdit dans une adresse (RFC 3986)"
    ),
    "reason.unsubscribe_malformed.host": (
        "une adresse de List-Unsubscribe désigne le serveur « {found} », que nul autre ne peut"
        " joindre"
    ),
    "reason.unsubscribe_malformed.address": (
        "une adresse mailto de List-Unsubscribe a « {found} » pour destinataire"
    ),
    "reason.unsubscribe_malformed.unwanted": (
        "il a son propre champ List-Unsubscribe ; sur le flux {stream}, seul le relais en met un"
    ),
    "reason.unsubscribe_malformed.several": "il y a {fields} champs List-Unsubscribe",
    "reason.one_click_missing": (
        "il n’y a pas de champ exact `List-Unsubscribe-Post: List-Unsubscribe=One-Click`"
    ),
    "reason.one_click_missing.https": "List-Unsubscribe ne contient pas d’adresse https",
    "reason.recipients_refused": "on ne peut pas écrire à tous ses destinataires",
    "reason.temporary_failure": (
        "une panne est survenue dans le relais, et ce qui n’est pas certain ne passe pas"
    ),
    "reason.body_optout_missing": "son texte ne montre aucun moyen de se désinscrire",
    "reason.sender_unidentified": ("son texte ne contient pas les mentions de l’expéditeur"),
    "reason.bulk_undeclared": (
        "c’est un envoi en nombre, sur un flux qui est censé n’en pas faire : {found}"
    ),
    "reason.unsubscribe_unsigned.added": (
        "sa signature ne couvre pas la désinscription, que le relais ajoute sans signer"
    ),
    "reason.unsubscribe_unsigned": "aucune signature valable ne couvre la désinscription",
    "reason.signatures": (
        "on ne connaît pas de signature qui couvre la désinscription : {findings}"
    ),
    "signature.valid": "celle de {domain} est valable",
    "signature.uncovered": "celle de {domain} ne la couvre pas",
    "signature.broken": "celle de {domain} ne correspond pas au message",
    "signature.unusable": "celle de {domain}, ou sa clé, est inutilisable",
    "signature.unknown": "le DNS n’a pas répondu pour la clé de {domain}",
    "reason.from_misaligned": "personne ne répond du domaine de l’expéditeur",
    "reason.from_misaligned.of": (
        "il est envoyé au nom de {domains}, et c’est {senders} qui en répond"
    ),
    "reason.subject_misleading": ("son objet commence par « {prefix} », et il ne répond à rien"),
}

FR: dict[str, str] = {
    "unknown": "inconnu",
    **_HAPPENED,
    **LABELS,
    **_OUTCOMES,
    **_RULES,
    **_PASSED,
    **_BASES,
    **_REASONS,
    **WHY,
    **CHANGE,
}
