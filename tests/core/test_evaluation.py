"""What is known about the recipients of a transaction, and how long a verdict holds."""

import pytest
from msgspec.structs import replace

from smtpproxy.core.evaluation import UNDECIDED, Evaluation
from smtpproxy.core.services import StreamChoice
from smtpproxy.policy.model import Mailing, MessageFeatures, RecipientFacts, Stream
from smtpproxy.store.sql.mailings import Mailed
from tests.core.driving import PEOPLE, Setting
from tests.core.present import Present
from tests.core.world import World
from tests.policy.cases import NOW, OFFERS, SUBSCRIBER, said, suppression

ANN, BOB, _ = PEOPLE
KNOWN = RecipientFacts(contact=SUBSCRIBER)
SCREENED = replace(OFFERS, max_snapshot_age=60.0)


def _evaluation(stream: Stream = OFFERS) -> Evaluation:
    driver = Present(World(), Setting("smtp"))
    driver.close()
    return Evaluation(driver.services, StreamChoice.of([stream], stream))


def test_answers_of_the_dns_and_the_count_survive_another_store_read() -> None:
    evaluation = _evaluation()
    evaluation.learn([ANN, BOB], {ANN: KNOWN}, 1)
    evaluation.learn_domains({ANN: True})
    evaluation.learn_mailings({ANN: Mailed((Mailing("offers", NOW),), NOW)})
    gone = replace(KNOWN, suppressions=(suppression(),))
    evaluation.learn([ANN], {ANN: gone}, 2)
    mailed = replace(gone, mailings=(Mailing("offers", NOW),), first_mailed_at=NOW)
    assert evaluation.facts == {ANN: replace(mailed, null_mx=True), BOB: RecipientFacts()}


@pytest.mark.parametrize("news", ["facts", "domains", "mailings"])
def test_a_verdict_holds_until_something_new_is_learned(news: str) -> None:
    evaluation = _evaluation()
    evaluation.learn([ANN, BOB], {ANN: KNOWN, BOB: KNOWN}, 1)
    evaluation.judge_at_rcpt([ANN, BOB], NOW)
    assert evaluation.holds(OFFERS, [ANN, BOB])
    if news == "facts":
        evaluation.learn([ANN], {}, 2)
    elif news == "domains":
        evaluation.learn_domains({ANN: True})
    else:
        evaluation.learn_mailed({ANN: KNOWN})
    assert not evaluation.holds(OFFERS, [ANN, BOB])
    assert evaluation.holds(OFFERS, [BOB])
    evaluation.judge_again(OFFERS, [ANN, BOB], MessageFeatures(), NOW)
    assert evaluation.holds(OFFERS, [ANN, BOB])


def test_a_verdict_based_on_the_age_of_a_snapshot_never_holds() -> None:
    evaluation = _evaluation(SCREENED)
    evaluation.learn([ANN], {ANN: replace(KNOWN, snapshot_at=NOW)}, 1)
    assert [said(v) for v in evaluation.judge_at_rcpt([ANN], NOW)] == ["allow consent"]
    assert not evaluation.holds(SCREENED, [ANN])


def test_only_recipients_whose_facts_could_not_be_read_are_undecided() -> None:
    evaluation = _evaluation()
    evaluation.learn([BOB], {BOB: KNOWN}, 1)
    for judge in (evaluation.judge_again, evaluation.judge_at_end):
        verdicts = judge(OFFERS, [ANN, BOB, ANN], MessageFeatures(), NOW)
        assert verdicts[0] == verdicts[2] == UNDECIDED
    evaluation.judge_at_rcpt([BOB], NOW)
    verdicts = evaluation.judge_at_end(OFFERS, [ANN, BOB], MessageFeatures(), NOW)
    assert [said(v) for v in verdicts] == ["defer temporary_failure", "allow consent"]
