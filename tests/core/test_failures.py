"""Failures in mid-transaction: who is then mailed, told and counted."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from smtpproxy.core import relaying
from smtpproxy.mail.dkim import SigningFailed
from smtpproxy.policy.model import Mode, Reason, Stream
from tests.core.driving import PEOPLE, SENDER, Setting
from tests.core.present import Present
from tests.core.scene import Scene, codes, failing
from tests.core.world import Effect, Result

ANN, BOB, CYD = PEOPLE
RELAY = Setting("smtp")
SPLIT = Setting("smtp", "split", refuses_at_data=True)
COPIES = Setting("smtp", adds_links=True)


@pytest.fixture(name="scene")
def _scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param)
    yield scene
    scene.driver.close()


def of(*settings: Setting) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", settings, indirect=True, ids=lambda s: s.name)


@of(COPIES)
def test_a_store_failure_before_the_notice_makes_the_client_retry(scene: Scene) -> None:
    refused: list[str] = []

    def answers(effect: Effect) -> Result | None:
        if effect.kind == "rcpt" and BOB in effect.about:
            refused.append(BOB)
            return "never"
        return "later" if effect.kind == "version" and refused else None

    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=answers)) == [451, 451]
    assert scene.mailed == {ANN}
    assert codes(scene.mail(ANN, BOB)) == [250, 250]
    answers_again = codes(scene.send(answers=failing("rcpt", "never", about=BOB)))
    assert answers_again == [250, 250]
    assert (len(scene.notices), scene.mailed) == (1, set())


@of(Setting("lmtp", adds_links=True))
def test_two_spellings_of_an_address_count_once_when_one_is_mailed(scene: Scene) -> None:
    loud = ANN.replace("ann", "ANN")
    scene.mail(ANN, loud)
    assert codes(scene.send(answers=failing("rcpt", "never", about=loud))) == [250, 550]
    assert scene.counted == {ANN}


@of(Setting("lmtp", adds_links=True), COPIES)
def test_somebody_suppressed_between_their_two_copies_gets_no_second_one(scene: Scene) -> None:
    """The facts are read again before the first copy."""

    def answers(effect: Effect) -> None:
        if effect.kind == "end":
            scene.suppress(ANN)

    names = ["".join(letters) for letters in product("aA", "nN", "nN")]
    spellings = [
        f"{name}@{domain}" for name in names for domain in ("people.example", "PEOPLE.example")
    ]
    scene.mail(BOB, *spellings)  # more than are sent at once
    told = codes(scene.send(answers=answers))
    assert scene.mailed == {BOB}
    assert told == ([250] + [550] * 16 if scene.setting.intake == "lmtp" else [250] * 17)


@of(RELAY, SPLIT, Setting("lmtp"))
def test_content_that_becomes_unreadable_is_not_mailed(scene: Scene) -> None:
    def answers(effect: Effect) -> None:
        scene.driver.spool_is_broken = effect.kind == "data" or scene.driver.spool_is_broken

    scene.mail(ANN)
    assert codes(scene.send(answers=answers)) == [451]
    assert (scene.sent, scene.counted) == ([], set())
    assert scene.outcomes == [451]


@of(RELAY)
def test_content_that_was_cut_off_counts_as_not_mailed(scene: Scene) -> None:
    """The connection is lost before the end of data is sent."""
    large = scene.content + b"x" * 70 + b"\r\n"
    large += b"".join(b"%070d\r\n" % line for line in range(4000))
    scene.mail(ANN)
    upstream = scene.driver.upstreams[-1]
    take = upstream.receive

    def hangs_up(data: bytes) -> None:
        take(data)
        if len(data) > 1000:
            scene.driver.connections[-1].connection_lost(None)

    upstream.receive = hangs_up  # type: ignore[method-assign]
    assert codes(scene.send(large)) == [451]
    assert (scene.sent, scene.counted) == ([], set())


@of(SPLIT)
def test_no_notice_is_sent_about_a_message_that_cannot_be_signed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsigned(*_: Any, **__: Any) -> Iterator[Any]:
        raise SigningFailed("no key")
        yield

    monkeypatch.setattr(relaying, "edited", unsigned)
    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send()) == [451, 451]
    assert (scene.notices, scene.mailed) == ([], set())


@of(SPLIT)
def test_a_split_is_on_record_once(scene: Scene) -> None:
    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send()) == [250, 250]
    assert (scene.mailed, len(scene.notices)) == ({ANN}, 1)
    assert len([line for line in scene.world.journal if line.id == scene.open.id]) == 1
    assert (len(scene.decided), scene.outcomes) == (1, [250])


@of(RELAY, SPLIT, COPIES, Setting("lmtp"))
def test_a_recorded_message_gets_an_outcome_though_the_store_fails(scene: Scene) -> None:
    scene.mail(ANN)
    assert codes(scene.send(answers=failing("version", after="record"))) == [451]
    assert scene.mailed == set()
    assert (len(scene.decided), scene.outcomes) == (1, [451])


@of(COPIES)
def test_recorded_refusals_are_given_though_the_store_fails_afterwards(scene: Scene) -> None:
    """It is only asked whom the outcome may name, so the outcome names nobody."""
    left = [ANN, BOB]

    def answers(effect: Effect) -> Result | None:
        if effect.kind == "data":
            scene.suppress(left.pop(0))
        return "later" if effect.kind == "facts" and set(effect.about) == {ANN, BOB} else None

    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=answers)) == [550, 550]
    assert [line.refused for line in scene.world.journal] == [set(), {ANN}, {BOB}]
    (noted,) = scene.driver.outcomes
    assert (noted.code, noted.each) == (550, ("550 5.7.1", "550 5.7.1"))


@of(COPIES)
def test_a_sender_is_told_once_of_refusals_while_copies_cannot_be_forgotten(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.mail(ANN, BOB)
    assert codes(scene.send(answers=failing("rcpt", about=BOB))) == [451, 451]
    scene.driver.outside.forgets = False
    scene.mail(ANN, BOB)
    scene.suppress(BOB)
    assert codes(scene.send()) == [250, 250]
    assert (scene.mailed, len(scene.notices)) == (set(), 1)


OBSERVED = Stream(name="offers", purpose="offers", mode=Mode.OBSERVE, unsubscribe_scope="marketing")


def test_observed_mail_passes_as_one_message_when_its_sender_cannot_be_told() -> None:
    scene = Scene(COPIES, {"offers": OBSERVED})
    scene.mail(ANN, BOB)
    scene.suppress(SENDER)
    assert codes(scene.send()) == [250, 250]
    (sent,) = scene.sent
    assert sent.recipients == (ANN, BOB)
    assert "List-Unsubscribe" not in sent.content
    (decided,) = scene.decided
    assert decided.observed
    assert decided.relayed
    assert decided.decision.message is not None
    assert decided.decision.message.reason is Reason.SINGLE_RECIPIENT_REQUIRED
    scene.driver.close()


@of(SPLIT)
def test_a_sender_suppressed_while_the_notice_is_prepared_is_not_mailed(scene: Scene) -> None:
    def answers(effect: Effect) -> None:
        if effect.kind == "rcpt" and SENDER in effect.about:
            scene.suppress(SENDER)

    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send(answers=answers)) == [550, 550]
    assert (scene.notices, scene.mailed, scene.outcomes) == ([], set(), [550])
    notices = [line.relayed for line in scene.world.journal if line.notice]
    assert notices == [True, False]


def test_an_abandoned_notice_holds_no_connection() -> None:
    scene = Scene(SPLIT)
    scene.mail(ANN, BOB)
    scene.suppress(BOB)
    question = scene.open.data(scene.content)
    while not any(e.kind == "rcpt" and SENDER in e.about for e in scene.world.outstanding):
        scene.world.answer(scene.world.outstanding[0], "ok")
        scene.driver.settle()
    driver: Present = scene.driver
    driver.cancel()
    assert question.due
    scene.go_on()
    assert driver.held() == 0
    scene.driver.close()
