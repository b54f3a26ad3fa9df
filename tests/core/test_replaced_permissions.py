"""A later refusal replaces a recorded permission in reports and explanations."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.core.explanation import Explanation, recall
from smtpproxy.policy.model import Action, Basis
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.report.counting import count_rows
from smtpproxy.report.counts import RecipientOutcome
from smtpproxy.sinks.audit.chain import Chain
from smtpproxy.sinks.audit.lines import LineMaker
from smtpproxy.sinks.audit.reader import Record, find
from tests.core.driving import PEOPLE, Protocols, Setting
from tests.core.scene import Answers, Scene
from tests.core.world import Effect
from tests.kit.journal import Clock, journal, relayed

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
def test_somebody_suppressed_after_the_record_is_counted_once(links: bool) -> None:
    scene = Scene(Setting("smtp", "split", adds_links=links))
    scene.mail(ANN, BOB)
    scene.send(answers=suppressing_bob_after_the_record(scene))
    assert scene.mailed == {ANN}
    scene.driver.close()
    found = counted(scene)
    assert found == {Basis.CONSENT: 1, "suppressed_complaint": 1}


def suppressing_bob_before_his_copy(scene: Scene) -> Answers:
    begun: list[Effect] = []

    def answers(effect: Effect) -> None:
        if effect.kind == "data" and not begun:
            begun.append(effect)
            scene.suppress(BOB)

    return answers


@pytest.mark.parametrize("intake", ["smtp", "lmtp"])
def test_somebody_suppressed_before_their_own_copy_is_counted_once(intake: Protocols) -> None:
    scene = Scene(Setting(intake, "split", adds_links=True))
    scene.mail(ANN, BOB)
    scene.send(answers=suppressing_bob_before_his_copy(scene))
    scene.driver.close()
    found = counted(scene)
    assert found == {Basis.CONSENT: 1, "suppressed_complaint": 1}


def test_an_explanation_gives_the_last_word_on_each_recipient() -> None:
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


async def recalled(scene: Scene, folder: Path, *, outcome: bool) -> Explanation:
    """What `explain --id` says about a message, from the journal."""
    clock = Clock()
    log, id = journal(folder, clock), clock.new_id()
    for each in scene.decided:
        if each.id == scene.decided[0].id:  # no notice
            await log.commit(replace(each, id=id))
    if outcome:
        log.outcome(relayed(id))
    log.close()
    return recall(find(folder, id), {"fr": builtin("fr")})


def test_the_journal_shows_a_replaced_permission_as_a_refusal(
    tmp_path: Path,
) -> None:
    scene = Scene(Setting("smtp"))
    scene.mail(ANN, BOB)
    scene.send(answers=suppressing_bob_after_the_record(scene))
    scene.driver.close()
    assert [each.relayed for each in scene.decided] == [True, False]
    found = asyncio.run(recalled(scene, tmp_path, outcome=False))
    assert not found.relayed
    assert [one.verdict.action for one in found.recipients] == [Action.ALLOW, Action.REFUSE]
    assert "suppressed_complaint" in str(found.message_reply)


def test_the_journal_shows_a_refused_copy_beside_the_answer_to_the_message(
    tmp_path: Path,
) -> None:
    scene = Scene(Setting("smtp", "split", adds_links=True))
    scene.mail(ANN, BOB)
    scene.send(answers=suppressing_bob_before_his_copy(scene))
    scene.driver.close()
    found = asyncio.run(recalled(scene, tmp_path, outcome=True))
    assert (found.relayed, found.outcome and found.outcome.code) == (True, 250)
    assert [one.verdict.action for one in found.recipients] == [Action.ALLOW, Action.REFUSE]
