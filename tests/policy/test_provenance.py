"""Addresses passed from hand to hand: each hand must be named and have disclosed us."""

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Link, Provenance, RecipientFacts, Source, Transaction
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    COLLECTED,
    NOW,
    OFFERS,
    SUBSCRIBER,
    TICK,
    said,
)

COLLECTOR = Link("Collector", True, COLLECTED)
BROKER = Link("Broker", True, COLLECTED)
SILENT = Link("Broker", False, COLLECTED)
NAMELESS = Link(None, True, COLLECTED)

HEAD = "the source is rented, and "
CHAINS = [
    (Provenance(chain=(COLLECTOR,)), ""),
    (Provenance(chain=(COLLECTOR, BROKER)), ""),
    (Provenance(chain=(Link("Collector", True),)), ""),
    # the two older fields make one hand, the last one if there is a chain
    (Provenance("Collector", True), ""),
    (Provenance("Broker", True, (COLLECTOR,)), ""),
    (
        Provenance("Broker", False, (COLLECTOR,)),
        "there is no record that supplier 2 of 2, Broker, disclosed",
    ),
    (Provenance(None, True, (COLLECTOR,)), ""),
    # one bad hand breaks the chain
    (
        Provenance(chain=(COLLECTOR, SILENT)),
        "there is no record that supplier 2 of 2, Broker, disclosed",
    ),
    (
        Provenance(chain=(SILENT, COLLECTOR)),
        "there is no record that supplier 1 of 2, Broker, disclosed",
    ),
    (
        Provenance(chain=(COLLECTOR, NAMELESS, BROKER)),
        "there is no record that supplier 2 of 3, whose name is not on record, disclosed",
    ),
    (Provenance(chain=(NAMELESS,)), "there is no record that a supplier disclosed"),
    (Provenance(chain=(Link(),)), "there is no record that a supplier disclosed"),
    (Provenance(chain=(Link("", True),)), "there is no record that a supplier disclosed"),
    (Provenance(chain=(Link(" \u200b", True),)), "there is no record that a supplier disclosed"),
    # a disclosure in the future does not count
    (Provenance(chain=(Link("Collector", True, NOW),)), ""),
    (
        Provenance(chain=(Link("Collector", True, NOW + TICK),)),
        "there is no record that a supplier disclosed",
    ),
]


@pytest.mark.parametrize(("provenance", "fault"), CHAINS)
def test_every_hand_counts(provenance: Provenance, fault: str) -> None:
    contact = replace(SUBSCRIBER, source=Source.RENTED, provenance=provenance)
    asked = Transaction((OFFERS,), (ADDRESS,))
    facts = {ADDRESS: RecipientFacts(contact=contact)}
    (verdict,) = judge(asked, facts, BOOK, NOW).recipients
    assert said(verdict) == ("refuse source_undisclosed" if fault else "allow consent")
    steps = {step.rule: step.text for step in trace(asked, 0, facts, BOOK, NOW)}
    if fault:
        assert steps["source"].startswith(HEAD + fault)


@pytest.mark.parametrize(("longest", "expected"), [(2, "allow"), (1, "refuse")])
def test_a_rulebook_may_limit_the_hands(longest: int, expected: str) -> None:
    book = replace(BOOK, longest_chain=longest)
    provenance = Provenance(chain=(COLLECTOR, BROKER))
    contact = replace(SUBSCRIBER, source=Source.PARTNER, provenance=provenance)
    asked = Transaction((OFFERS,), (ADDRESS,))
    facts = {ADDRESS: RecipientFacts(contact=contact)}
    (verdict,) = judge(asked, facts, book, NOW).recipients
    assert verdict.action == expected
    text = {step.rule: step.text for step in trace(asked, 0, facts, book, NOW)}["source"]
    if expected == "refuse":
        assert text == "the source is partner, through 2 suppliers: the most allowed is 1"
    else:
        assert text == "the source is partner, and each of 2 suppliers disclosed this sender"
