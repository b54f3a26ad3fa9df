"""A decision is on record with the facts that it was made by, whatever the store says later."""

from collections.abc import Sequence

import pytest

from smtpproxy.core.evaluation import replay
from smtpproxy.events import Decided
from smtpproxy.policy.model import Reason
from smtpproxy.policy.rulebooks import builtin
from tests.core.driving import PEOPLE, Protocols, Setting
from tests.core.scene import Scene

ANN, BOB, _ = PEOPLE


def refused_at_data(intake: Protocols) -> Scene:
    """Ann's consent is withdrawn, and the stream refuses her at the end of the message."""
    scene = Scene(Setting(intake, refuses_at_data=True))
    scene.mail(ANN, withdrawn=[ANN])
    return scene


def reasons(decisions: Sequence[Decided]) -> list[list[Reason]]:
    for each in decisions:
        assert replay(each, builtin("fr")).changes == ()
    return [[one.verdict.reason for one in each.recipients] for each in decisions]


@pytest.mark.parametrize("intake", ["smtp", "lmtp", "milter"])
def test_a_refusal_is_recorded_with_what_was_known_when_it_was_given(intake: Protocols) -> None:
    scene = refused_at_data(intake)
    scene.suppress(ANN)
    scene.send()
    assert reasons(scene.decided) == [[Reason.CONSENT_WITHDRAWN]]


def test_a_refusal_stays_while_another_is_added() -> None:
    scene = refused_at_data("lmtp")
    scene.rcpt(BOB)
    for name in (ANN, BOB):
        scene.suppress(name)
    scene.send()
    assert reasons(scene.decided) == [[Reason.CONSENT_WITHDRAWN, Reason.SUPPRESSED_COMPLAINT]]
