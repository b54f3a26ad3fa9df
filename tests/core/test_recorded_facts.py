"""A decision is recorded with the facts it was based on, whatever the store says later."""

from collections.abc import Sequence
from datetime import datetime

import pytest

from smtpproxy.core.evaluation import replay
from smtpproxy.core.recording import was_erased
from smtpproxy.events import Decided
from smtpproxy.policy.model import Origin, Reason, RecipientFacts
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.sinks.audit.lines import ERASED
from tests.core.driving import PEOPLE, Protocols, Setting
from tests.core.scene import Scene, codes
from tests.core.world import Effect, Result
from tests.policy.cases import NOW, TICK, suppression

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
def test_a_refusal_is_recorded_with_the_facts_known_when_it_was_given(intake: Protocols) -> None:
    scene = refused_at_data(intake)
    scene.suppress(ANN)
    scene.send()
    assert reasons(scene.decided) == [[Reason.CONSENT_WITHDRAWN]]


def test_an_earlier_refusal_stays_when_another_is_added() -> None:
    scene = refused_at_data("lmtp")
    scene.rcpt(BOB)
    for name in (ANN, BOB):
        scene.suppress(name)
    scene.send()
    assert reasons(scene.decided) == [[Reason.CONSENT_WITHDRAWN, Reason.SUPPRESSED_COMPLAINT]]


@pytest.mark.parametrize(
    ("origin", "since", "widened", "erased"),
    [
        (Origin.ERASURE, NOW, False, True),
        (Origin.ERASURE, NOW + TICK, False, True),
        (Origin.ERASURE, NOW - TICK, False, False),  # mailed again since, for another reason
        (Origin.ERASURE, NOW, True, False),  # somebody else
        (Origin.OBJECTION, NOW, False, False),
    ],
)
def test_somebody_is_erased_while_a_message_is_under_way(
    origin: Origin, since: datetime, widened: bool, erased: bool
) -> None:
    entry = suppression("marketing", origin, since, widened=widened)
    assert was_erased(RecipientFacts((entry,)), NOW) is erased


@pytest.mark.parametrize("setting", [Setting("smtp"), Setting("smtp", adds_links=True)])
@pytest.mark.parametrize("after", ["nothing", "an erasure", "a failure"])
def test_the_recorded_answer_of_the_upstream_lacks_an_erased_address(
    setting: Setting, after: str
) -> None:
    scene = Scene(setting)
    scene.world.says = f"<{ANN}> is fine"

    def answers(effect: Effect) -> Result | None:
        if effect.kind == "end" and after == "an erasure":
            scene.world.people[ANN].erased = True
        at_its_end = after == "a failure" and "end" in scene.asked[-1:]
        return "later" if effect.kind == "version" and at_its_end else None

    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=answers)) == [250, 250]
    noted = scene.driver.outcomes[-1]
    assert noted.each == () or [one[:9] for one in noted.each] == ["250 2.0.0"] * 2
    told = [noted.reply, *noted.each]
    assert any(ANN in one for one in told) is (after == "nothing"), told
    scene.driver.close()


@pytest.mark.parametrize("intake", ["smtp", "lmtp", "milter"])
def test_a_recorded_refusal_does_not_name_a_person_erased_meanwhile(
    intake: Protocols,
) -> None:
    scene = refused_at_data(intake)
    scene.world.people[ANN].erased = True
    scene.send()
    (decided,) = scene.decided
    assert [one.address.startswith(ERASED) for one in decided.recipients] == [True]
    scene.driver.close()


def test_a_refused_recipient_is_recorded_once() -> None:
    scene = Scene(Setting("policy"))
    assert codes(scene.mail(ANN, suppressed=[ANN])) == [550]
    assert reasons(scene.decided) == [[Reason.SUPPRESSED_COMPLAINT]]
    scene.driver.close()
