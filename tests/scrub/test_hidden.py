"""A verdict for somebody who may not see the contact is right even with its reason hidden."""

from collections.abc import Mapping

import pytest

from smtpproxy.policy.model import Contact, Lookups, Pause, Reason, RecipientFacts
from smtpproxy.scrub.verdicts import ScrubRequest, judge_addresses
from tests.policy.cases import ADDRESS, BOOK, DAY, NOW, OFFERS, PERSON, SUBSCRIBER, said


class Known:
    """A store that knows one person."""

    def __init__(self, known: RecipientFacts) -> None:
        self._known = known

    async def facts(self, lookups: Lookups) -> Mapping[str, RecipientFacts]:
        return dict.fromkeys(lookups.addresses, self._known)


@pytest.mark.parametrize(
    ("contact", "paused", "verdict"),
    [
        (SUBSCRIBER, False, "allow consent"),
        (SUBSCRIBER, True, f"defer {Reason.STREAM_PAUSED}"),
        (PERSON, False, f"refuse {Reason.NO_RECORD}"),
        (PERSON, True, f"refuse {Reason.NO_RECORD}"),
    ],
)
async def test_a_verdict_is_true_though_its_reason_is_hidden(
    contact: Contact, paused: bool, verdict: str
) -> None:
    pauses = (Pause("stream:offers", NOW - DAY, "person"),) if paused else ()
    store = Known(RecipientFacts(contact=contact, pauses=pauses))
    asked = ScrubRequest(OFFERS, BOOK, NOW)
    (found,) = await judge_addresses(store, asked, [ADDRESS], lambda _: True)  # type: ignore[arg-type]
    assert said(found.verdict) == verdict
