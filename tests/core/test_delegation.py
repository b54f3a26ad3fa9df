"""What an MTA that asks only about recipients is told when it asks again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from smtpproxy.config import parse
from smtpproxy.core.dry_run import Question, dry_run
from smtpproxy.core.services import StreamChoice
from smtpproxy.events import Decided
from smtpproxy.policy.model import Frequency, Mode, Preference, Reason, Stream
from smtpproxy.relay.content import Content, Spool
from tests.core.driving import PEOPLE, SENDER, Setting
from tests.core.scene import Scene, codes, failing
from tests.core.world import Effect, Result
from tests.kit.relay import relay_config
from tests.kit.store import TrialStore
from tests.kit.toml import to_toml
from tests.policy.cases import DAY, NOW, SUBSCRIBER

ANN, BOB, _ = PEOPLE


@pytest.fixture(name="scene")
def _scene() -> Iterator[Scene]:
    scene = Scene(Setting("policy"))
    yield scene
    scene.driver.close()


def test_a_recipient_refused_when_asked_again_is_refused_at_data_too(scene: Scene) -> None:
    assert codes(scene.mail(ANN)) == [250]
    scene.suppress(ANN)
    assert codes(scene.rcpt(ANN)) == [550]
    assert codes(scene.send()) == [550]


def test_the_record_of_a_refusal_at_data_names_the_permission_it_replaces(
    scene: Scene,
) -> None:
    assert codes(scene.mail(ANN)) == [250]
    assert codes(scene.rcpt(BOB)) == [250]
    scene.suppress(ANN)
    assert codes(scene.send()) == [550, 550]
    *permitted, last = scene.decided
    assert [one.permitted_before for one in permitted] == [(), ()]
    bases = [one.recipients[0].verdict.basis for one in permitted]
    assert last.permitted_before == tuple(bases) != ()


def test_a_refusal_that_could_not_be_recorded_does_not_become_a_permission(
    scene: Scene,
) -> None:
    assert codes(scene.mail(ANN)) == [250]
    scene.suppress(ANN)
    assert codes(scene.send(answers=failing("record"))) == [451]
    assert codes(scene.send()) == [550]


def test_a_recipient_suppressed_while_their_permission_is_recorded_is_refused(scene: Scene) -> None:
    def answers(effect: Effect) -> None:
        if effect.kind == "record":
            scene.suppress(ANN)

    assert codes(scene.mail(ANN, answers=answers)) == [550]
    assert [decided.relayed for decided in scene.decided] == [True, False]
    permitted, refused = scene.decided
    assert refused.permitted_before == (permitted.recipients[0].verdict.basis,)


def test_a_recipient_who_withdraws_while_others_are_read_again_is_refused(scene: Scene) -> None:
    assert codes(scene.mail(BOB)) == [250]
    scene.world.passes_time()
    assert codes(scene.rcpt(ANN)) == [250]  # so at DATA only BOB's facts are out of date
    versions: list[Effect] = []

    def answers(effect: Effect) -> None:
        if effect.kind == "version":
            versions.append(effect)
        if len(versions) == 2:
            scene.suppress(ANN)

    assert codes(scene.send(answers=answers)) == [550, 550]


async def test_a_cap_holds_for_a_recipient_named_after_one_who_wants_less_mail(
    tmp_path: Path,
) -> None:
    """That the message is already counted for the first must not matter to the second."""
    offers = {"name": "offers", "class": "marketing", "purpose": "offers", "frequency_cap": "1/7d"}
    document = relay_config(tmp_path, "127.0.0.1:25", {"stream": [offers]})
    settings = parse(to_toml(document), "x.toml")
    stream, store = settings.streams["offers"], TrialStore()
    weekly = Preference("offers", Frequency.WEEKLY, NOW - 30 * DAY)
    await store.put_contacts(
        [
            changed(SUBSCRIBER, address=ANN, preferences=(weekly,)),
            changed(SUBSCRIBER, address=BOB),
        ]
    )
    await store._mailings.reserve("an earlier one", stream, [BOB], NOW - DAY)
    choice = StreamChoice.of((stream,), stream)
    question = Question(choice, "policy", "apps", SENDER, (ANN, BOB), NOW)
    content = Content(Spool(tmp_path, 1_000))
    answers = await dry_run(settings, question, content, store, None)
    await store.close()
    reasons = [one.verdict.reason for each in answers.decided for one in each.recipients]
    assert reasons == [Reason.NONE, Reason.FREQUENCY_CAP]


def test_no_sink_hears_of_an_erased_recipient_when_the_journal_fails_in_observe_mode() -> None:
    observed = Stream(name="offers", purpose="offers", mode=Mode.OBSERVE)
    scene = Scene(Setting("policy"), {"offers": observed})
    fails = failing("record")

    def answers(effect: Effect) -> Result | None:
        scene.world.people[ANN].erased = True
        return fails(effect)

    assert codes(scene.mail(ANN, answers=answers)) == [250]
    told = [event for event in scene.driver.events if isinstance(event, Decided)]
    assert told
    assert ANN not in repr([(each.recipients, each.decision) for each in told])
    scene.driver.close()
