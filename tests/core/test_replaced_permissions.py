"""A refusal after a permission on record replaces it, in reports and explanations."""

from collections import Counter

import pytest

from smtpproxy.core.explanation import recall
from smtpproxy.policy.model import Action, Basis
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.report.counting import count_rows
from smtpproxy.report.counts import RecipientOutcome
from smtpproxy.sinks.audit.chain import Chain
from smtpproxy.sinks.audit.lines import LineMaker
from smtpproxy.sinks.audit.reader import Record
from tests.core.driving import PEOPLE, Protocols, Setting
from tests.core.scene import Answers, Scene
from tests.core.world import Effect

ANN, BOB, _ = PEOPLE


def counted(scene: Scene) -> Counter[str]:
    """How a report counts the recipients."""
    row: dict[RecipientOutcome, int] = {}
    maker, chain = LineMaker(), Chain()
    lines = [chain.seal(*maker.decision(each)) for each in scene.decided]
    count_rows(lines, row)
    return Counter({each.word: number for each, number in row.items() if number})


def suppressing_bob_after_the_record(scene: Scene) -> Answers:
    recorded: list[Effect] = []

    def answers(effect: Effect) -> None:
        if recorded:
            scene.suppress(BOB)
            recorded.clear()
        elif effect.kind == "record" and len(scene.decided) == 0:
            recorded.append(effect)

    return answers


@pytest.mark.parametrize("links", [False, True])
def test_who_is_suppressed_after_the_record_is_counted_once(links: bool) -> None:
    scene = Scene(Setting("smtp", "split", adds_links=links))
    scene.mail(ANN, BOB)
    scene.send(answers=suppressing_bob_after_the_record(scene))
    assert scene.mailed == {ANN}
    scene.driver.close()
    found = counted(scene)
    assert found == {Basis.CONSENT: 1, "suppressed_complaint": 1}


@pytest.mark.parametrize("intake", ["smtp", "lmtp"])
def test_who_is_suppressed_before_their_own_copy_is_counted_once(intake: Protocols) -> None:
    scene = Scene(Setting(intake, "split", adds_links=True))
    scene.mail(ANN, BOB)
    begun: list[Effect] = []

    def answers(effect: Effect) -> None:
        if effect.kind == "data" and not begun:
            begun.append(effect)
            scene.suppress(BOB)

    scene.send(answers=answers)
    scene.driver.close()
    found = counted(scene)
    assert found == {Basis.CONSENT: 1, "suppressed_complaint": 1}


def test_an_explanation_of_a_decision_says_of_everybody_what_came_last() -> None:
    scene = Scene(Setting("policy"))
    scene.mail(ANN)
    scene.rcpt(BOB)
    scene.suppress(BOB)
    scene.send()
    scene.driver.close()
    found = recall([Record(each) for each in scene.decided], {"fr": builtin("fr")})
    assert [(one.address, one.verdict.action) for one in found.recipients] == [
        (ANN, Action.ALLOW),
        (BOB, Action.REFUSE),
    ]
    assert found.message is not None
    assert found.message.action is Action.REFUSE
