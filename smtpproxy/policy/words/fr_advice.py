"""What follows from a reason, in French. Keys and placeholders are those of `en_advice.py`."""

WHY = {
    "why.suppressed_unsubscribe": (
        "On n’écrit plus à qui s’est désinscrit, à moins d’un nouveau consentement."
    ),
    "why.suppressed_complaint": (
        "Un signalement vaut opposition, et un consentement ne le lève pas à lui seul."
    ),
    "why.suppressed_bounce": (
        "Qui continue d’écrire à des adresses inexistantes passe pour un spammeur."
    ),
    "why.suppressed_objection": (
        "L’opposition à la prospection n’a pas à être motivée et ne souffre aucune exception."
    ),
    "why.suppressed_erasure": (
        "D’une personne effacée, seule cette interdiction est conservée, afin qu’aucune ancienne"
        " liste ne la fasse revenir."
    ),
    "why.suppressed_manual": "Elle vaut jusqu’à ce qu’une personne habilitée la lève.",
    "why.suppressed_external": "Une opposition exprimée ailleurs vaut aussi ici.",
    "why.no_record": (
        "Qui ne peut prouver qu’il a le droit d’écrire à une personne ne doit pas lui écrire."
    ),
    "why.contact_restricted": "L’adresse a été donnée pour un autre usage.",
    "why.source_forbidden": "Une adresse prise à l’insu de la personne ne peut être utilisée.",
    "why.source_undisclosed": (
        "Une adresse ne peut être transmise qu’à ceux qui ont été annoncés à la personne."
    ),
    "why.source_unproven": "Qui ne sait dire d’où vient une adresse ne peut l’utiliser.",
    "why.source_not_announced": (
        "La personne dont l’adresse vient d’un tiers doit en être informée au premier contact."
    ),
    "why.consent_missing": "La prospection exige une base légale, et le silence n’en est pas une.",
    "why.consent_withdrawn": (
        "Le retrait vaut opposition, et seul un consentement plus récent peut le lever."
    ),
    "why.consent_preticked": (
        "Le consentement est un acte positif de la personne ; une case précochée ou le silence n’en"
        " est pas un."
    ),
    "why.consent_conditional": (
        "Le consentement doit être libre : il ne peut être le prix d’un service."
    ),
    "why.consent_unproven": (
        "L’expéditeur doit prouver à quoi la personne a consenti, quand et comment."
    ),
    "why.consent_channel": "Le consentement vaut pour les canaux pour lesquels il a été donné.",
    "why.consent_expired": (
        "Le consentement ne vaut pas sans fin quand la personne ne donne plus signe de vie."
    ),
    "why.customer_stale": "Après un tel délai, la personne n’est plus cliente.",
    "why.product_not_similar": (
        "On ne peut écrire à un client qu’au sujet de produits ou services analogues."
    ),
    "why.source_not_direct": (
        "Sans consentement, on ne peut écrire qu’aux clients qui ont donné l’adresse eux-mêmes."
    ),
    "why.notice_missing": (
        "La personne doit être informée, lors de la collecte, de l’usage de son adresse."
    ),
    "why.optout_not_offered": ("La personne doit pouvoir refuser simplement lors de la collecte."),
    "why.topic_unrelated": (
        "On ne peut écrire à un professionnel qu’au sujet de sa propre profession."
    ),
    "why.inactive": "Qui est resté si longtemps silencieux doit être laissé en paix.",
    "why.stream_paused": "L’exploitant du relais a suspendu ce flux pour le moment.",
    "why.frequency_cap": "Un plafond protège les personnes d’un excès de messages.",
    "why.null_mx": "Personne ne peut y être joint, quel que soit son accord.",
    "why.list_stale": (
        "Avec une liste ancienne, on pourrait écrire à des personnes qui se sont opposées depuis."
    ),
    "why.header_malformed": "Ce que les logiciels lisent différemment ne peut être examiné.",
    "why.stream_not_permitted": "Chaque application ne peut utiliser que certains flux.",
    "why.sender_not_permitted": (
        "La prospection ne peut dissimuler pour le compte de qui elle est envoyée."
    ),
    "why.unsubscribe_missing": (
        "Tout message de prospection doit offrir la désinscription ; les messageries montrent ce"
        " champ comme un bouton « Se désinscrire »."
    ),
    "why.unsubscribe_malformed": "La désinscription doit fonctionner.",
    "why.one_click_missing": (
        "Les messageries et leurs fournisseurs demandent qu’un seul clic suffise."
    ),
    "why.recipients_refused": (
        "Une même réponse vaut ici pour tous les destinataires : personne ne reçoit le message."
    ),
    "why.temporary_failure": "Le serveur expéditeur fera de lui-même une nouvelle tentative.",
    "why.body_optout_missing": (
        "Tout message de prospection doit montrer à ses lecteurs comment se désinscrire."
    ),
    "why.sender_unidentified": "Le destinataire doit pouvoir savoir qui lui écrit.",
    "why.bulk_undeclared": (
        "Un envoi en nombre doit respecter les règles plus strictes de la prospection."
    ),
    "why.unsubscribe_unsigned": (
        "Sans signature, les fournisseurs de messagerie ne se fient pas au bouton."
    ),
    "why.from_misaligned": (
        "Les fournisseurs de messagerie tiennent de tels messages pour falsifiés."
    ),
    "why.subject_misleading": "Le lecteur doit savoir ce qu’il ouvre.",
}

CHANGE = {
    "change.valid_consent": (
        "La personne consent à « {purpose} » par un acte positif ({methods}), pour le"
        " courriel{free} ; ce consentement est enregistré avec sa preuve : {evidence}"
        " (`smtpproxy consent record`)."
    ),
    "consent.free": " et sans que ce soit une condition du service",
    "change.newer_consent": (
        "La personne consent de nouveau, après le {since}, à « {purpose} » par un acte positif"
        " ({methods}), pour le courriel{free} ; ce consentement est enregistré avec sa preuve :"
        " {evidence} (`smtpproxy consent record`)."
    ),
    "change.lift": (
        "Rien que l’expéditeur puisse faire. Si la personne elle-même souhaite de nouveau ces"
        " messages, une personne habilitée lève l’inscription (`smtpproxy suppress remove`)."
    ),
    "change.lift.also": (
        "La personne elle-même souhaite de nouveau ces messages, et une personne habilitée lève"
        " l’inscription (`smtpproxy suppress remove`)."
    ),
    "change.reading": (
        "Rien, tant que l’adresse est écrite ainsi : un serveur de courrier peut la remettre à"
        " {other}, qui a retiré son consentement. Une adresse sans %, ! ni guillemets est jugée"
        " pour elle-même."
    ),
    "change.lift.domain": (
        "Rien que l’expéditeur ou la personne puisse faire : l’inscription vaut pour tout le"
        " domaine. Qui en répond la lève (`smtpproxy suppress remove {domain}`)."
    ),
    "change.suppressed_bounce": (
        "Il est établi que la boîte fonctionne de nouveau, et l’inscription est levée"
        " (`smtpproxy suppress remove`)."
    ),
    "change.suppressed_manual": (
        "La personne qui a fait l’inscription la fait lever ; `smtpproxy suppress show` en donne"
        " la note."
    ),
    "change.suppressed_external": (
        "L’erreur est corrigée sur la liste d’où vient l’inscription. Celle-ci est ensuite levée"
        " ici, ou disparaît avec le prochain envoi du partenaire ; `smtpproxy suppress show` le"
        " nomme."
    ),
    "change.no_record": (
        "Ce que l’on sait de la personne est enregistré avec sa preuve : l’origine de l’adresse et"
        " ce à quoi elle a consenti (`smtpproxy contact import`)."
    ),
    "change.contact_restricted": (
        "La personne donne son adresse pour de tels envois, et l’étiquette {tag} est retirée du"
        " contact."
    ),
    "change.source_forbidden": (
        "Rien que l’on puisse faire de cet enregistrement. Si la personne donne elle-même son"
        " adresse, celle-ci est enregistrée avec cette origine."
    ),
    "change.source_undisclosed": (
        "Il est enregistré que chaque fournisseur, nommé, a dit à la personne lors de la collecte"
        " que l’adresse serait transmise au présent expéditeur. Ce qui n’a pas été dit alors ne"
        " peut être réparé."
    ),
    "change.source_unproven": "La véritable origine de l’adresse est enregistrée.",
    "change.source_not_announced": (
        "Le développeur de l’expéditeur fait indiquer au premier message d’où vient l’adresse, et"
        " le signale dans le champ d’en-tête que le relais attend (`source_header`)."
    ),
    "change.proof": "La preuve manquante de ce consentement est retrouvée et enregistrée.",
    "change.confirm": "La personne confirme sa demande.",
    "change.customer_stale": "La personne achète de nouveau : une vente fait repartir le délai.",
    "change.product_not_similar": (
        "Les produits du flux sont réellement analogues à ce qui a été acheté, et le flux {stream}"
        " le mentionne parmi les siens."
    ),
    "change.source_not_direct": "La personne donne elle-même son adresse à l’expéditeur.",
    "change.notice_missing": (
        "Il est enregistré que la personne a été informée lors de la collecte. Une information plus"
        " tardive ne suffit pas."
    ),
    "change.optout_not_offered": (
        "Il est enregistré que la personne a pu refuser simplement lors de la collecte."
    ),
    "change.topic_unrelated": (
        "L’envoi porte sur la profession de la personne, dans un flux dont c’est un des sujets."
    ),
    "change.inactive": "La personne donne signe de vie : {signs}.",
    "sign.collected": "l’adresse est recueillie de nouveau",
    "sign.consent": "elle consent",
    "sign.purchase": "elle achète",
    "sign.positive_act": "elle clique, répond ou se connecte",
    "change.as_customer": (
        "La personne est cliente, aux conditions que la loi y met : {conditions}."
    ),
    "change.as_professional": (
        "L’adresse est celle d’un professionnel, aux conditions que la loi y met : {conditions}."
    ),
    "condition.similar_product": "l’envoi porte sur des produits analogues",
    "condition.direct_source": "elle a donné son adresse elle-même",
    "condition.notice": "elle a été informée lors de la collecte",
    "condition.optout_offered": "elle a pu refuser lors de la collecte",
    "condition.topic": "l’envoi porte sur sa profession",
    "condition.active": "elle a donné signe de vie récemment",
    "condition.purchase": "un achat récent",
    "condition.professional": "elle sert à sa profession",
    "change.stream_paused": (
        "Le flux reprend. Le serveur expéditeur fait de lui-même une nouvelle tentative ; il n’y a"
        " rien à faire."
    ),
    "change.frequency_cap": (
        "Le temps passe : le serveur expéditeur fait de lui-même une nouvelle tentative."
    ),
    "change.null_mx": (
        "L’expéditeur demande une autre adresse à la personne ; ou le domaine retire son MX nul."
    ),
    "change.list_stale": (
        "Une liste à jour est importée ; le serveur expéditeur fait de lui-même une nouvelle"
        " tentative."
    ),
    "change.header_malformed": (
        "Le développeur de l’expéditeur fait écrire un en-tête correct, avec un seul champ From et"
        " des lignes terminées par CRLF (RFC 5322)."
    ),
    "change.stream_not_permitted": (
        "Le développeur de l’expéditeur désigne un flux permis à l’application, ou l’exploitant du"
        " relais lui permet celui-ci."
    ),
    "change.sender_not_permitted": (
        "Le développeur de l’expéditeur écrit depuis une adresse des domaines du flux, ou"
        " l’exploitant du relais ajoute le domaine au flux."
    ),
    "change.unsubscribe_missing": (
        "Le développeur de l’expéditeur ajoute à l’en-tête de chaque message :"
        " `List-Unsubscribe: <https://…>`, avec une adresse propre à chaque destinataire"
        " (RFC 8058)."
    ),
    "change.unsubscribe_malformed": (
        "Le développeur de l’expéditeur met un seul champ List-Unsubscribe, avec une adresse https"
        " ou mailto complète entre chevrons (RFC 2369)."
    ),
    "change.one_click_missing": (
        "Le développeur de l’expéditeur met une adresse https dans List-Unsubscribe, et ajoute"
        " cette ligne, mot pour mot : `List-Unsubscribe-Post: List-Unsubscribe=One-Click`"
        " (RFC 8058)."
    ),
    "change.recipients_refused": (
        "L’expéditeur retire du message les destinataires refusés, ou envoie un message à chacun."
    ),
    "change.temporary_failure": (
        "Le relais fonctionne de nouveau ; s’il tarde, son exploitant en consulte le journal."
    ),
    "change.body_optout_missing": (
        "Le développeur de l’expéditeur met un lien de désinscription visible dans le texte et dans"
        " le HTML."
    ),
    "change.sender_unidentified": (
        "Le développeur de l’expéditeur met les mentions dans le texte de chaque message, mot pour"
        " mot comme elles sont configurées (`imprint`)."
    ),
    "change.bulk_undeclared": (
        "Le développeur de l’expéditeur envoie de tels messages par un flux de prospection, avec"
        " consentement."
    ),
    "change.unsubscribe_unsigned": (
        "Qui signe les messages fait couvrir List-Unsubscribe et List-Unsubscribe-Post par la"
        " signature DKIM (RFC 8058, section 4)."
    ),
    "change.from_misaligned": (
        "Le message est signé avec le domaine de l’adresse From (DKIM), ou l’expéditeur de son"
        " enveloppe est de ce domaine."
    ),
    "change.subject_misleading": (
        "L’expéditeur réserve un tel début aux réponses et aux transferts, qui désignent le message"
        " auquel ils répondent (In-Reply-To, References)."
    ),
}
