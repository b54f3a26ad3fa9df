"""What each verdict means, in plain words for people who plan a campaign.

docs/reasons.md has the rules behind them.
"""

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


def of_reason(reason: str) -> str:
    return _REASONS.get(reason, _ELSEWHERE)


def of_basis(basis: str) -> str:
    return _BASES.get(basis, "")
