"""The notice about a message in an MTA's queue is a separate message."""

from smtpproxy.events import Decided
from tests.core.driving import PEOPLE, Setting
from tests.core.scene import Scene, codes
from tests.core.world import Effect

ANN, BOB, CYD = PEOPLE


def test_the_record_of_a_notice_lacks_the_queue_id_of_the_message() -> None:
    scene = Scene(Setting("milter", "split", refuses_at_data=True))
    try:
        assert codes(scene.mail(ANN)) == [250]
        scene.world.people[BOB].scopes = {"all"}
        assert codes(scene.rcpt(BOB)) == [250]
        assert codes(scene.send()) == [250, 250]
    finally:
        scene.driver.close()
    decided = [event for event in scene.driver.events if isinstance(event, Decided)]
    assert [(each.stage, each.client.queue_id) for each in decided] == [
        ("data", "4QID"),
        ("notice", ""),
    ]


def test_a_recipient_who_withdraws_during_the_notice_is_no_longer_counted() -> None:
    scene = Scene(Setting("milter", "split", refuses_at_data=True))

    def withdraws(effect: Effect) -> None:
        if effect.kind == "end":
            scene.world.passes_time()
            scene.world.people[CYD].consents = False

    try:
        for name in (ANN, BOB, CYD):
            question = scene.rcpt(name) if name != ANN else scene.mail(name)
            assert codes(question) == [250]
        scene.world.people[BOB].scopes = {"all"}
        assert codes(scene.send(answers=withdraws)) == [250, 250, 250]
        assert scene.counted == {ANN}
    finally:
        scene.driver.close()
