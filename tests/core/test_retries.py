"""A client sends a message again: nobody is mailed twice or told of a refusal twice."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.core.driving import PEOPLE, SENDER, Setting
from tests.core.present import streams
from tests.core.scene import Scene, Told, codes, failing
from tests.core.world import Effect
from tests.kit.messages import marketing

ANN, BOB, CYD = PEOPLE
SPLIT = Setting("smtp", "split", refuses_at_data=True)
COPIES = Setting("smtp", adds_links=True)
MILTER = Setting("milter", "split", refuses_at_data=True)


@pytest.fixture(name="scene")
def _scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param)
    yield scene
    scene.driver.close()


def of(*settings: Setting) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", settings, indirect=True, ids=lambda s: s.name)


SPLIT_COPIES = Setting("smtp", "split", adds_links=True, refuses_at_data=True)


@of(SPLIT, SPLIT_COPIES)
@pytest.mark.parametrize("kind", ["rcpt", "data", "end"])
def test_a_retry_for_deferred_recipients_repeats_no_notice(scene: Scene, kind: str) -> None:
    told = 0
    for _ in range(3):
        scene.mail(ANN, BOB, suppressed=[BOB])
        after = "end" if not told else ""  # the first end of data is the notice's
        question = scene.send(answers=failing(kind, about=ANN * (kind == "rcpt"), after=after))
        assert codes(question) == [451, 451]
        told += len(scene.notices)
    assert told == 1
    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send()) == [250, 250]
    assert (scene.mailed, scene.notices) == ({ANN}, [])


@of(SPLIT, SPLIT_COPIES)
def test_a_second_sending_gets_its_own_notice(scene: Scene) -> None:
    for _ in range(2):
        scene.mail(ANN, BOB, suppressed=[BOB])
        assert codes(scene.send()) == [250, 250]
        assert (scene.mailed, len(scene.notices)) == ({ANN}, 1)


def mtas_message(scene: Scene) -> None:
    """Ask about each recipient, as an MTA does."""
    scene.mail(ANN, suppressed=[BOB])
    scene.rcpt(BOB)


@of(MILTER)
def test_an_mta_that_was_deferred_causes_one_notice(scene: Scene) -> None:
    mtas_message(scene)
    assert codes(scene.send(answers=failing("version", after="end"))) == [451, 451]
    assert len(scene.notices) == 1
    mtas_message(scene)
    assert codes(scene.send()) == [250, 250]
    assert scene.notices == []
    mtas_message(scene)
    assert codes(scene.send()) == [250, 250]
    assert len(scene.notices) == 1


@of(MILTER)
def test_an_mta_that_did_not_wait_causes_one_notice(scene: Scene) -> None:
    """It then answers its client 451 by default, and the client tries again."""
    for is_there, notices in ((False, 1), (True, 0), (True, 1)):
        mtas_message(scene)
        assert codes(scene.send(client_is_there=is_there)) == [250, 250]
        assert len(scene.notices) == notices


@of(COPIES)
def test_a_client_that_did_not_wait_for_the_answer_mails_nobody_twice(scene: Scene) -> None:
    scene.mail(ANN, BOB)
    assert codes(scene.send(client_is_there=False)) == [250, 250]
    assert scene.mailed == {ANN, BOB}
    scene.mail(ANN, BOB)
    assert codes(scene.send()) == [250, 250]
    assert scene.mailed == set()
    scene.mail(ANN, BOB)  # once answered, it is a second sending
    assert codes(scene.send()) == [250, 250]
    assert scene.mailed == {ANN, BOB}


@of(COPIES)
def test_a_client_that_did_not_wait_causes_one_notice_about_a_failed_recipient(
    scene: Scene,
) -> None:
    scene.mail(ANN, BOB)
    refuses_bob = failing("rcpt", "never", about=BOB)
    assert codes(scene.send(answers=refuses_bob, client_is_there=False)) == [250, 250]
    assert (scene.mailed, len(scene.notices)) == ({ANN}, 1)
    scene.mail(ANN, BOB)
    question = scene.send()
    assert codes(question) == [250, 250]
    assert question.answers is not None
    assert "1 of 2 recipients" in question.answers[0].text
    assert (scene.mailed, scene.notices) == (set(), [])


@of(COPIES)
def test_a_retry_during_the_first_attempt_mails_nobody_twice(scene: Scene) -> None:
    def slow(effect: Effect) -> Told:
        """The upstream takes its time over the second copy."""
        return "wait" if effect.kind == "data" and ANN in scene.mailed else None

    scene.mail(ANN, BOB)
    first = scene.send(answers=slow)
    assert (first.due, scene.mailed) == (True, {ANN})
    (held,) = scene.world.outstanding
    others = lambda effect: "wait" if effect is held else None  # noqa: E731
    scene.mail(ANN, BOB, answers=others)
    assert codes(scene.send(answers=others, client_is_there=False)) == [250, 250]
    assert scene.mailed == {BOB}
    scene.go_on()
    assert codes(first) == [250, 250]
    assert scene.mailed == {BOB}, "once"
    assert len(scene.sent) == 1


@of(COPIES)
def test_copies_are_forgotten_once_their_message_is_refused_for_good(
    scene: Scene,
) -> None:
    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=failing("rcpt", about=BOB))) == [451, 451]
    assert scene.ledger == {ANN}
    scene.mail(ANN, BOB)
    scene.suppress(SENDER)  # so the sender cannot be told
    scene.suppress(BOB)
    assert codes(scene.send()) == [554, 554]
    assert scene.ledger == set()


@of(COPIES)
def test_a_recipient_whose_limit_is_used_up_by_their_copy_does_not_block_the_retry(
    scene: Scene,
) -> None:
    """At RCPT it is only known that some message to them has no final answer yet."""
    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=failing("rcpt", about=ANN))) == [451, 451]
    assert scene.mailed == {BOB}
    for content, answer in ((marketing(subject="Other shoes"), 550), (None, 250)):
        scene.mail(ANN)
        for name in (BOB, CYD):
            scene.world.people[name].wished_at = scene.world.now  # one a week
        assert codes(scene.rcpt(BOB, CYD)) == [250, 550]
        assert codes(scene.send(content)) == [answer, answer]
    assert scene.mailed == {ANN}
    scene.mail(ANN)
    scene.world.people[BOB].wished_at = scene.world.now
    assert codes(scene.rcpt(BOB)) == [550], "the client has its answer"


@of(COPIES)
def test_somebody_already_mailed_is_not_refused_at_a_retry_for_others(scene: Scene) -> None:
    """One answer serves all: it says who got the message; a notice says who did not."""
    scene.mail(ANN, BOB, CYD)
    assert codes(scene.send(answers=failing("rcpt", about=BOB))) == [451, 451, 451]
    assert scene.mailed == {ANN, CYD}
    scene.mail(ANN, BOB, SENDER)
    scene.suppress(BOB)
    question = scene.send()
    assert codes(question) == [250, 250, 250]
    assert question.answers is not None
    assert "1 of 3 recipients" in question.answers[0].text
    assert scene.mailed == set(), "on_mixed is refuse"
    (notice,) = scene.notices
    assert f"rfc822; {BOB}" in notice.content
    assert f"rfc822; {SENDER}" in notice.content
    assert ANN not in notice.content
    assert scene.ledger == {CYD}, "the transaction has no answer yet"


def test_a_message_refused_after_all_were_mailed_counts_as_delivered() -> None:
    """The client did not wait for its answer, and the configuration has changed since."""
    offered = streams(COPIES)
    scene = Scene(COPIES, offered)
    scene.mail(ANN, BOB)
    assert codes(scene.send(client_is_there=False)) == [250, 250]
    offered["offers"] = replace(offered["offers"], from_domains=frozenset({"other.example"}))
    scene.mail(ANN, BOB)
    question = scene.send()
    assert codes(question) == [250, 250]
    assert question.answers is not None
    assert "2 recipients" in question.answers[0].text
    assert scene.sent == []
    scene.driver.close()


@of(COPIES)
def test_the_same_message_to_other_people_keeps_the_copies(scene: Scene) -> None:
    """A client with many recipients sends it in several transactions."""
    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=failing("rcpt", about=BOB))) == [451, 451]
    scene.mail(CYD, SENDER)
    assert codes(scene.send()) == [250, 250]
    scene.mail(ANN, BOB)
    assert codes(scene.send()) == [250, 250]
    assert scene.mailed == {BOB}


def test_the_sender_is_told_once_of_a_refused_recipient_permitted_since() -> None:
    scene = Scene(SPLIT_COPIES)
    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send(answers=failing("rcpt", about=ANN))) == [451, 451]
    assert (scene.mailed, len(scene.notices)) == (set(), 1)
    scene.mail(ANN, BOB)  # BOB wants it now
    answers = failing("rcpt", "never", about=BOB, after="record")
    assert codes(scene.send(answers=answers)) == [250, 250]
    assert (scene.mailed, scene.notices) == ({ANN}, [])
    scene.driver.close()
