"""Explanations in English.

`reason.` says what is in the way and `basis.` why mail is lawful, `why.` the principle behind
either, `change.` what would have to be true instead, `passed.` why a rule did not decide;
`rule.` and `outcome.` are what rules and outcomes are called. What has a second part after
the reason, basis or rule is a variant of it.
"""

from smtpproxy.policy.words.en_advice import CHANGE, WHY
from smtpproxy.policy.words.en_labels import LABELS

_HAPPENED = {
    "was.allow": "Mail to {who} was allowed on stream {stream}: {cause}. {why}",
    "was.refuse": "Mail to {who} was refused on stream {stream}: {cause}. {why}",
    "was.defer": "Mail to {who} was put off on stream {stream}: {cause}. {why}",
    "would.allow": "Mail to {who} would be allowed on stream {stream}: {cause}. {why}",
    "would.refuse": "Mail to {who} would be refused on stream {stream}: {cause}. {why}",
    "would.defer": "Mail to {who} would be put off on stream {stream}: {cause}. {why}",
    "was.message.allow": "The message itself was accepted on stream {stream}: {cause}.",
    "was.message.refuse": "The message was refused on stream {stream}: {cause}. {why}",
    "was.message.defer": "The message was put off on stream {stream}: {cause}. {why}",
    "would.message.allow": "The message itself would be accepted on stream {stream}: {cause}.",
    "would.message.refuse": "The message would be refused on stream {stream}: {cause}. {why}",
    "would.message.defer": "The message would be put off on stream {stream}: {cause}. {why}",
    "untold": "the reason on record is “{reason}”",
    "untold.basis": "the basis on record is “{reason}”",
    "undecided": "No rule was asked about this recipient, as the message itself is not accepted.",
    "not_yet": "nothing was in the way yet",
    "retold": (
        "What is on record stands. Asked again, the rules do not come to the same answer: the"
        " rulebook, or what is stored of the person, is not what it was."
    ),
    "no_rulebook": (
        "The steps cannot be told: the rulebook {rulebook} is not configured any more."
    ),
    "whole.was": "Yet this recipient got nothing, as the message as a whole did not pass.",
    "whole.would": "Yet this recipient would get nothing, as the message as a whole does not pass.",
    "own.answer": "The mail server behind the relay answered for this recipient: {reply}",
    "observed.was": "The stream was in observe mode, so the mail passed all the same.",
    "observed.would": "The stream is in observe mode, so the mail passes all the same.",
    "others": "All other rules still have to be kept.",
}

_OUTCOMES = {
    "outcome.allow": "allowed",
    "outcome.refuse": "refused",
    "outcome.defer": "put off",
    "outcome.passed": "did not decide",
}

_RULES = {
    "rule.suppression": "Is there an order not to mail?",
    "rule.transactional": "Is it transactional mail?",
    "rule.withdrawn": "Was consent withdrawn?",
    "rule.generic_address": "Is it an organisation's address?",
    "rule.no_record": "Is anything known of the address?",
    "rule.restricted": "Is the contact barred from bulk mail?",
    "rule.source": "Where is the address from?",
    "rule.consent": "Is there valid consent?",
    "rule.existing_customer": "Is the person a customer?",
    "rule.charity": "Is it a charity's mail to a supporter?",
    "rule.professional": "Is it about the person's profession?",
    "rule.opt_out": "Is mail lawful until the person objects?",
    "rule.nearest_basis": "Is there any other basis?",
    "rule.source_announced": "Does a first message say where the address is from?",
    "rule.paused": "Is the stream paused?",
    "rule.header": "Can the header be read?",
    "rule.sender": "May the stream write under this sender?",
    "rule.unsubscribe_present": "Is there a way to unsubscribe?",
    "rule.unsubscribe_usable": "Does unsubscribing work?",
    "rule.one_click": "Does one click unsubscribe?",
    "rule.unsubscribe_signed": "Is the way to unsubscribe signed?",
    "rule.alignment": "Does somebody answer for the From domain?",
    "rule.body_optout": "Does the text show a way out?",
    "rule.imprint": "Does the text say who the sender is?",
    "rule.subject": "Is the subject what it says?",
    "rule.bulk": "Is it bulk mail?",
    "rule.message": "Are all rules for messages kept?",
    "rule.stream_uncertain": "On which stream is the mail?",
    "rule.frequency": "Has the person had as much mail as may be?",
    "rule.null_mx": "Does the recipient's domain take mail?",
    "rule.list_stale": "Is the list of objections fresh?",
}

_PASSED = {
    "passed.suppression": "no suppression of a scope that covers stream {stream}",
    "passed.suppression.yields": (
        "no suppression of a scope that covers stream {stream} holds: {yields}"
    ),
    "yields": "the {origin} of {since} yields to the consent given on {given}",
    "yielding": "{basis}; {yields}",
    "passed.transactional": "stream {stream} is marketing: a basis is needed",
    "passed.withdrawn": "consent to “{purpose}” is not withdrawn",
    "passed.generic_address": "the local part is not on the role list",
    "passed.generic_address.audience": "the audience on record is {audience}, not generic",
    "passed.generic_address.mailboxes": "{domain} gives mailboxes to private persons",
    "passed.no_record": "there is a record of the address",
    "passed.no_record.none": "there is no record, and rulebook {rulebook} asks for none",
    "passed.restricted": "the contact is not tagged {tags}",
    "passed.restricted.none": "no tag bars bulk mail",
    "passed.source": "the address was obtained directly",
    "passed.source.accepted": "rulebook {rulebook} accepts the source {source}",
    "passed.source.supplier": "the source is {source}, and its supplier disclosed this sender",
    "passed.source.suppliers": (
        "the source is {source}, and each of {hands} suppliers disclosed this sender"
    ),
    "passed.consent": "no consent to “{purpose}” is on record",
    "passed.existing_customer": "no purchase is on record",
    "passed.charity": "stream {stream} is not a charity's",
    "passed.charity.since": (
        "stream {stream} is not a charity's, or the contact was not collected since {since}"
    ),
    "passed.professional": "the contact is not known as a professional",
    "passed.paused": "stream {stream} is not paused",
    "passed.frequency": "the person has not had as much mail as may be sent",
    "passed.null_mx": "the domain does not say that it takes no mail",
    "passed.list_stale": "every list that has to be fresh is fresh",
    "passed.source_announced": "it is not the first message to the person",
    "passed.source_announced.direct": (
        "the person gave the address, so nothing has to be said of its source"
    ),
    "passed.source_announced.said": "the message says where the address is from",
    "passed.header": "the header can be read; From is of {domains}",
    "passed.sender": "the From domain is one that the stream may write as",
    "passed.unsubscribe_present": "there is a List-Unsubscribe field",
    "passed.unsubscribe_added": "the relay adds it, as stream {stream} asks for",
    "passed.unsubscribe_usable": "List-Unsubscribe has 1 usable URI",
    "passed.unsubscribe_usable.many": "List-Unsubscribe has {uris} usable URIs",
    "passed.unsubscribe_usable.decoded": "{found}, after decoding encoded words",
    "passed.one_click": "an https URI and an exact List-Unsubscribe-Post are there",
    "passed.one_click.optional": "stream {stream} does not ask for one-click",
    "passed.unsubscribe_signed": "a valid DKIM signature of {domains} covers it",
    "passed.unsubscribe_signed.none": "the message came without a DKIM signature",
    "passed.unsubscribe_signed.relay": "the relay signs it",
    "passed.unsubscribe_signed.unchecked": "its DKIM signatures were not checked",
    "passed.alignment": "the envelope sender or a signature is of the From domain",
    "passed.alignment.off": "stream {stream} does not ask for it",
    "passed.alignment.relay": "the relay signs for the From domain",
    "passed.body_optout": "the text has words for it and a link that unsubscribes",
    "passed.body_optout.off": "stream {stream} does not ask for it",
    "passed.imprint": "the sender's imprint stands in the text",
    "passed.imprint.off": "stream {stream} names no imprint to look for",
    "passed.subject": "it is not made to look like an answer",
    "passed.subject.off": "stream {stream} does not ask for it",
    "passed.bulk": "it has none of the marks of bulk mail",
    "passed.bulk.observed": "{found}; stream {stream} lets it pass",
    "bulk.markers": "its header has {fields}",
    "bulk.alike": "the same text was to go to {alike} people, and {most} is the most",
    "message.kept": "every rule for messages of stream {stream} is kept",
    "uncertain.would": "on stream {stream} it would be: {verdict}",
    "uncertain.allow": "a stream that it may still be on does not refuse it: not refused yet",
    "verdict.allow": "allowed",
    "verdict.basis": "allowed by {word}",
    "verdict.refuse": "refused, {word}",
    "verdict.defer": "put off, {word}",
}

_BASES = {
    "basis.transactional": "stream {stream} is transactional",
    "basis.generic_address": "the address belongs to an organisation, not to a person",
    "basis.consent": "the person agreed to “{purpose}” on {given} ({method}); {last}",
    "basis.existing_customer": "{customer}{within}",
    "basis.existing_customer.told": "{customer}{within}, and {told} when the address was collected",
    "customer.bought": "the person bought a product of stream {stream}",
    "customer.asked": "the person bought or asked for a product of stream {stream}",
    "customer.any": "the person is a customer",
    "customer.within": " within {period}",
    "customer.any_time": "any time",
    "basis.charity": "stream {stream} is a charity's; {last}",
    "basis.charity.told": (
        "stream {stream} is a charity's; the person {told} when the address was collected; {last}"
    ),
    "basis.professional": "the person is a professional{topic}; {last}",
    "basis.professional.told": (
        "the person is a professional and {told} when the address was collected{topic}; {last}"
    ),
    "professional.topic": ", and the topic is that of their work",
    "basis.opt_out": "mail is lawful until the person objects, and no objection is on record",
    "told.notice": "was told of such mail",
    "told.optout": "was free to refuse",
    "last": "last active on {last}",
    "last.none": "no activity is on record",
    "why.transactional": "Such mail sells nothing, so it needs no agreement.",
    "why.generic_address": "The rules on marketing protect persons, not departments.",
    "why.consent": "Whoever agreed may be mailed, until they take it back.",
    "why.existing_customer": (
        "A customer may be written to about similar products, until they object."
    ),
    "why.charity": "A charity may write to its supporters, until they object.",
    "why.professional": "A professional may be written to about their work, until they object.",
    "why.opt_out": "An objection would end that at once.",
}

_REASONS = {
    "reason.suppressed_unsubscribe": "the person unsubscribed on {since} from {covers}{widened}",
    "reason.suppressed_complaint": (
        "the person reported mail as spam on {since}; that stops {covers}{widened}"
    ),
    "reason.suppressed_bounce": (
        "mail to the address came back for good on {since}; that stops {covers}{widened}"
    ),
    "reason.suppressed_objection": "the person objected on {since} to {covers}{widened}",
    "reason.suppressed_erasure": (
        "the person had their data erased on {since}; that stops {covers}{widened}"
    ),
    "reason.suppressed_manual": (
        "somebody entered by hand on {since} that the address is not to get {covers}{widened}"
    ),
    "reason.suppressed_external": (
        "a do-not-mail list from elsewhere has had the address since {since}; that stops"
        " {covers}{widened}"
    ),
    "reason.no_record": "nothing is known of the address",
    "reason.contact_restricted": "the contact is tagged {tag}: not for bulk mail",
    "reason.source_forbidden": "the address was obtained by source {source}",
    "reason.source_undisclosed": (
        "the source is {source}, and no supplier is on record that disclosed this sender at"
        " collection"
    ),
    "reason.source_undisclosed.long": (
        "the source is {source}, through {hands} hands: no more than {longest} may be"
    ),
    "reason.source_undisclosed.hand": (
        "the source is {source}, and hand {number} of {hands}, {who} did not disclose this"
        " sender at collection"
    ),
    "hand.unnamed": "which has no name on record,",
    "reason.source_unproven": "no known source of the address is on record",
    "reason.source_not_announced": (
        "it is the first message to the person, and does not say where the address is from"
    ),
    "reason.consent_missing": "no consent to “{purpose}” is on record, and no other basis",
    "reason.consent_withdrawn": "the person withdrew their consent to “{purpose}” on {withdrawn}",
    "reason.consent_preticked": "the consent of {given} came by {method}: no act of agreement",
    "reason.consent_conditional": "the consent of {given} was a condition of the service",
    "reason.consent_unproven": "the consent of {given} lacks an active method or its {evidence}",
    "reason.consent_unproven.pending": "the double opt-in of {given} was not confirmed",
    "reason.consent_unproven.later": "the consent to “{purpose}” is dated {given}, later than now",
    "reason.consent_channel": "the consent of {given} is not for e-mail",
    "reason.consent_expired": "{last}: consent lasts {consent_period} from it",
    "reason.customer_stale": "no purchase is from the last {customer_period}",
    "reason.product_not_similar": "no purchase is of a product of stream {stream}",
    "reason.product_not_similar.lately": (
        "no purchase of the last {customer_period} is of a product of stream {stream}"
    ),
    "period.inquiry": "{period} ({inquiry} for an inquiry)",
    "reason.source_not_direct": "the address was not obtained directly from the person",
    "reason.notice_missing": "no notice given at collection is on record",
    "reason.optout_not_offered": "no way to refuse was offered at collection",
    "reason.topic_unrelated": "no topic of stream {stream} is an occupation on record",
    "reason.topic_unrelated.profiling": (
        "the person objected to profiling, and no topic of stream {stream} is an occupation that"
        " they told themselves"
    ),
    "reason.inactive": "{last}: mail must stop {activity_period} after it",
    "method.none": "an unknown method",
    "reason.stream_paused": "stream {stream} is paused",
    "reason.null_mx": "the recipient's domain says that it takes no mail (null MX)",
    "reason.frequency_cap": "the person has had as much mail as may be sent for now",
    "reason.frequency_cap.until": (
        "the person has had as many messages as may be sent ({count} in {period}); the next may go"
        " after {free_at}"
    ),
    "reason.list_stale": "a list of objections that has to be fresh is too old",
    "reason.header_malformed": "the header cannot be read: {malformed}",
    "malformed.from": "no From address",
    "reason.stream_not_permitted": "the stream that the message names is not one it may use",
    "reason.sender_not_permitted": (
        "From is of {strangers}, which is not a domain of stream {stream}"
    ),
    "reason.unsubscribe_missing": "there is no List-Unsubscribe field",
    "reason.unsubscribe_malformed": (
        "List-Unsubscribe holds no https URI with a host and no mailto URI with an address"
    ),
    "reason.unsubscribe_malformed.placeholder": (
        "List-Unsubscribe still holds the placeholder {found} of a template"
    ),
    "reason.unsubscribe_malformed.characters": (
        "List-Unsubscribe holds {found}, which may not stand in a URI (RFC 3986)"
    ),
    "reason.unsubscribe_malformed.host": (
        "a URI of List-Unsubscribe has the host “{found}”, which nobody else can reach"
    ),
    "reason.unsubscribe_malformed.address": (
        "a mailto URI of List-Unsubscribe has “{found}” where its address should be"
    ),
    "reason.unsubscribe_malformed.unwanted": (
        "it has a List-Unsubscribe of its own, and on stream {stream} only the relay's may be"
    ),
    "reason.unsubscribe_malformed.several": "there are {fields} List-Unsubscribe fields",
    "reason.one_click_missing": (
        "there is no exact field `List-Unsubscribe-Post: List-Unsubscribe=One-Click`"
    ),
    "reason.one_click_missing.https": "List-Unsubscribe holds no https URI",
    "reason.recipients_refused": "not all of its recipients may be mailed",
    "reason.temporary_failure": "something failed in the relay, and what is not sure does not pass",
    "reason.body_optout_missing": "its text shows no way to unsubscribe",
    "reason.sender_unidentified": "its text does not hold the sender's imprint",
    "reason.bulk_undeclared": "it is bulk mail on a stream that claims not to be: {found}",
    "reason.unsubscribe_unsigned.added": (
        "its signature does not cover the way to unsubscribe, which the relay adds without signing"
    ),
    "reason.unsubscribe_unsigned": "no valid signature covers its way to unsubscribe",
    "reason.signatures": "no signature is known to cover its way to unsubscribe: {findings}",
    "signature.valid": "that of {domain} is valid",
    "signature.uncovered": "that of {domain} does not cover it",
    "signature.broken": "that of {domain} does not match the message",
    "signature.unusable": "that of {domain}, or its key, cannot be used",
    "signature.unknown": "the key of {domain} was not answered for by the DNS",
    "reason.from_misaligned": "nobody answers for the domain that it is sent under",
    "reason.from_misaligned.of": "it is sent under {domains}, and {senders} answers for it",
    "reason.subject_misleading": "its subject begins with “{prefix}”, and it answers nothing",
}

EN: dict[str, str] = {
    "unknown": "not known",
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
