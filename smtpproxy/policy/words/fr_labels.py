"""The fixed texts around an explanation, in French. Keys are those of `en_labels.py`."""

LABELS = {
    "label.recorded": "Décision {id}, prise le {at}",
    "label.asked": "Examen à la date du {at} ; rien n’a été envoyé",
    "label.stream": "Flux {stream} : {about}. Référentiel {rulebook}",
    "label.marketing": "prospection",
    "label.transactional": "messages transactionnels",
    "label.purpose": "{kind}, pour la finalité « {purpose} »",
    "label.utc": "Les dates et les heures sont en UTC.",
    "label.upstream": (
        "Il a été présenté au serveur de messagerie derrière le relais. Réponse, le {at} : {reply}"
    ),
    "label.upstream.unknown": (
        "Il a été présenté au serveur de messagerie derrière le relais ; sa réponse est inconnue."
    ),
    "label.seal.kept": (
        "Prouvée : l’ancre {anchor} du {at} la scelle et mène à une ancre conservée ailleurs."
    ),
    "label.seal.local": (
        "Scellée par l’ancre {anchor} du {at}, qui n’est que sur cette machine : --anchors compare"
        " avec celles conservées ailleurs."
    ),
    "label.seal.unproven": ("Non prouvée : elle suit la dernière ancre, rien ne la scelle encore."),
    "label.seal.broken": "ALTÉRÉE : {what}. Voir `smtpproxy audit verify`.",
    "label.message": "Le message",
    "label.change": "Ce qui changerait cette réponse",
    "label.change.any": "Ce qui changerait cette réponse, au choix",
    "label.steps": "Étape par étape",
    "label.reply": "Réponse au serveur expéditeur",
    "label.step": "{question} [{rule} : {outcome}] {text}.",
    "label.semicolon": " ;",
    "label.source": "Source : {source}",
    "label.both": "{law} ({rows})",
    "label.no_law": "aucun texte de loi",
    "label.design": "conception",
    "label.rows": "règles",
    "label.to": "à",
    "label.by_rulebook": "selon le référentiel",
    # what a suppression covers, and how it came to count for the address
    "covers.all": "tout envoi",
    "covers.marketing": "toute prospection",
    "covers.purpose": "la finalité « {purpose} »",
    "widened": " (inscription faite pour une autre graphie de la même boîte)",
    "whole_domain": " (inscription faite pour tous les destinataires de {domain})",
    "whole_domain.below": " (inscription faite pour tout {domain} et ses sous-domaines)",
    "read_as": " (inscription faite pour {other}, que cette adresse peut désigner{whole})",
}
