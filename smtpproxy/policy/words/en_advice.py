"""What follows from a reason, in English: the principle (`why.`) and what would change it."""

WHY = {
    "why.suppressed_unsubscribe": "Whoever unsubscribes is left alone until they agree anew.",
    "why.suppressed_complaint": "A spam report counts as an objection, and consent does not lift"
    " it by itself.",
    "why.suppressed_bounce": "Who goes on mailing addresses that do not exist is taken for a"
    " spammer.",
    "why.suppressed_objection": "An objection to marketing needs no reason and has no exception.",
    "why.suppressed_erasure": "Of an erased person only this order is kept, so that no old list"
    " brings them back.",
    "why.suppressed_manual": "Such an entry holds until somebody with the right to do so lifts it.",
    "why.suppressed_external": "An objection made elsewhere counts here as well.",
    "why.no_record": "Who cannot prove that a person may be mailed may not mail them.",
    "why.contact_restricted": "The address was given for another use.",
    "why.source_forbidden": "An address that was taken without asking may not be used.",
    "why.source_undisclosed": "An address may be handed on only to those whom the person was told"
    " of.",
    "why.source_unproven": "Who cannot say where an address is from may not use it.",
    "why.source_not_announced": "Whose address came from somebody else has to be told so at the"
    " first contact.",
    "why.consent_missing": "Marketing needs a legal basis, and silence is none.",
    "why.consent_withdrawn": "A withdrawal is an objection, and nothing but a newer consent lifts"
    " it.",
    "why.consent_preticked": "Consent is an act of the person's own; a box ticked in advance or"
    " silence is none.",
    "why.consent_conditional": "Consent has to be free: it may not be the price of a service.",
    "why.consent_unproven": "The sender has to prove what the person agreed to, when and how.",
    "why.consent_channel": "Consent holds for the channels that it was given for.",
    "why.consent_expired": "Consent does not last for ever where nothing is heard of the person.",
    "why.customer_stale": "After so long a person is no customer any more.",
    "why.product_not_similar": "A customer may be written to about similar products only.",
    "why.source_not_direct": "Only customers who gave the address themselves may be written to"
    " without consent.",
    "why.notice_missing": "Persons have to be told, when the address is collected, what it will be"
    " used for.",
    "why.optout_not_offered": "Persons must be able to refuse simply when the address is"
    " collected.",
    "why.topic_unrelated": "A professional may be written to about their own work only.",
    "why.inactive": "Who has been silent for so long is to be left alone.",
    "why.stream_paused": "Whoever runs the relay has stopped this stream for the time being.",
    "why.frequency_cap": "A limit protects people from too much mail.",
    "why.null_mx": "Nobody can be reached there, whatever they have agreed to.",
    "why.list_stale": "With an old list, mail could reach people who have objected since.",
    "why.header_malformed": "What programs read in different ways cannot be judged.",
    "why.stream_not_permitted": "Each sending application may use certain streams only.",
    "why.sender_not_permitted": "Marketing may not hide on whose behalf it is sent.",
    "why.unsubscribe_missing": "Every marketing message has to offer a way out; mail programs show"
    " this field as an “Unsubscribe” button.",
    "why.unsubscribe_malformed": "The way out has to work.",
    "why.one_click_missing": "Mail programs and mailbox providers ask that one click is enough.",
    "why.recipients_refused": "Here one answer serves all recipients, so nobody is mailed.",
    "why.temporary_failure": "The sending server will try again by itself.",
    "why.body_optout_missing": "Every marketing message has to show its readers a way out.",
    "why.sender_unidentified": "Who is written to must be able to tell by whom.",
    "why.bulk_undeclared": "Bulk mail has to meet the stricter rules of marketing.",
    "why.unsubscribe_unsigned": "Without a signature mailbox providers do not trust the button.",
    "why.from_misaligned": "Mailbox providers take such mail for forged.",
    "why.subject_misleading": "Readers must be able to tell what they are opening.",
}

CHANGE = {
    "change.valid_consent": (
        "The person agrees to “{purpose}” by an act of their own ({methods}), for e-mail{free}; it"
        " is recorded with its {evidence} (`smtpproxy consent record`)."
    ),
    "consent.free": " and not as a condition of a service",
    "change.newer_consent": (
        "The person agrees anew, later than {since}, to “{purpose}” by an act of their own"
        " ({methods}), for e-mail{free}; it is recorded with its {evidence}"
        " (`smtpproxy consent record`)."
    ),
    "change.lift": (
        "Nothing that the sender does. If the person themselves wants the mail again, somebody with"
        " the right to do so lifts the order (`smtpproxy suppress remove`)."
    ),
    "change.lift.also": (
        "The person themselves wants the mail again, and somebody with the right to do so lifts the"
        " order (`smtpproxy suppress remove`)."
    ),
    "change.reading": (
        "Nothing, as the address is written: a mail server may deliver it to {other}, who withdrew"
        " their consent. An address without %, ! and quotes is judged for itself."
    ),
    "change.lift.domain": (
        "Nothing that the sender or the person does: the order holds for the whole domain. Whoever"
        " answers for it lifts it (`smtpproxy suppress remove {domain}`)."
    ),
    "change.suppressed_bounce": (
        "The mailbox is known to work again, and the order is lifted (`smtpproxy suppress remove`)."
    ),
    "change.suppressed_manual": (
        "Whoever entered it has the order lifted; `smtpproxy suppress show` has their note."
    ),
    "change.suppressed_external": (
        "What is wrong is put right on the list that it came from. Then the order is lifted here,"
        " or goes with the partner's next snapshot; `smtpproxy suppress show` names the partner."
    ),
    "change.no_record": (
        "What is known of the person is put on record with its proof: where the address is from and"
        " what they agreed to (`smtpproxy contact import`)."
    ),
    "change.contact_restricted": (
        "The person gives the address for such mail, and the tag {tag} is taken off the contact."
    ),
    "change.source_forbidden": (
        "Nothing that is done to this record. If the person gives the address themselves, it is"
        " recorded with that source."
    ),
    "change.source_undisclosed": (
        "It is on record that every supplier, by name, told the person at collection that the"
        " address goes to this sender. What was not said then cannot be made good."
    ),
    "change.source_unproven": "The true source of the address is put on record.",
    "change.source_not_announced": (
        "The sender's developer has the first message say where the address is from, and name it in"
        " the header field that the relay looks for (`source_header`)."
    ),
    "change.proof": "The missing proof of that consent is found and put on record.",
    "change.confirm": "The person confirms their request.",
    "change.customer_stale": "The person buys again: a sale starts the period anew.",
    "change.product_not_similar": (
        "The products of the stream are really similar to what was bought, and stream {stream}"
        " names it among them."
    ),
    "change.source_not_direct": "The person gives their address to the sender themselves.",
    "change.notice_missing": (
        "It is on record that the person was told at collection. A later notice does not do."
    ),
    "change.optout_not_offered": (
        "It is on record that the person could refuse simply at collection."
    ),
    "change.topic_unrelated": (
        "The mail is about the person's profession, on a stream that names it as a topic."
    ),
    "change.inactive": "The person shows that they are there: {signs}.",
    "sign.collected": "the address is collected anew",
    "sign.consent": "they agree",
    "sign.purchase": "they buy something",
    "sign.positive_act": "they click, reply or log in",
    "change.as_customer": (
        "The person is a customer, with what the law asks of that: {conditions}."
    ),
    "change.as_professional": (
        "The address is a professional's, with what the law asks of that: {conditions}."
    ),
    "condition.similar_product": "the mail is about similar products",
    "condition.direct_source": "they gave the address themselves",
    "condition.notice": "they were told at collection",
    "condition.optout_offered": "they could refuse at collection",
    "condition.topic": "the mail is about their work",
    "condition.active": "they were active lately",
    "condition.purchase": "a recent purchase",
    "condition.professional": "it is used for their work",
    "change.stream_paused": (
        "The stream goes on. The sending server tries again by itself; nothing has to be done."
    ),
    "change.frequency_cap": "Time passes: the sending server tries again by itself.",
    "change.null_mx": (
        "The sender asks the person for another address; or the domain takes its null MX away."
    ),
    "change.list_stale": "A fresh list is imported; the sending server tries again by itself.",
    "change.header_malformed": (
        "The sender's developer has the application write a correct header, with exactly one From"
        " field and its lines ended by CRLF (RFC 5322)."
    ),
    "change.stream_not_permitted": (
        "The sender's developer names a stream that the application may use, or whoever runs the"
        " relay allows it this one."
    ),
    "change.sender_not_permitted": (
        "The sender's developer writes from an address of the stream's domains, or whoever runs the"
        " relay adds the domain to the stream."
    ),
    "change.unsubscribe_missing": (
        "The sender's developer adds to the header of each message:"
        " `List-Unsubscribe: <https://…>`, with an address of each recipient's own (RFC 8058)."
    ),
    "change.unsubscribe_malformed": (
        "The sender's developer sends exactly one List-Unsubscribe field, with a complete https or"
        " mailto address in angle brackets (RFC 2369)."
    ),
    "change.one_click_missing": (
        "The sender's developer adds an https address to List-Unsubscribe, and this line, word for"
        " word: `List-Unsubscribe-Post: List-Unsubscribe=One-Click` (RFC 8058)."
    ),
    "change.recipients_refused": (
        "The sender takes the refused recipients off the message, or sends one message to each."
    ),
    "change.temporary_failure": (
        "The relay works again; if it does not soon, whoever runs it looks at its log."
    ),
    "change.body_optout_missing": (
        "The sender's developer puts a visible unsubscribe link into the text and the HTML."
    ),
    "change.sender_unidentified": (
        "The sender's developer puts the imprint into the text of each message, word for word as it"
        " is configured (`imprint`)."
    ),
    "change.bulk_undeclared": (
        "The sender's developer sends such mail on a marketing stream, with consent."
    ),
    "change.unsubscribe_unsigned": (
        "Whoever signs the mail has the DKIM signature cover List-Unsubscribe and"
        " List-Unsubscribe-Post (RFC 8058, section 4)."
    ),
    "change.from_misaligned": (
        "The mail is signed with the domain of the From address (DKIM), or its envelope sender is"
        " of that domain."
    ),
    "change.subject_misleading": (
        "The sender leaves such a beginning to answers and forwards, which name the message that"
        " they answer (In-Reply-To, References)."
    ),
}
