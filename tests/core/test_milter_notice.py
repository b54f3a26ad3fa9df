"""The notice about a message that an MTA asks about is a message of its own."""

from smtpproxy.events import Decided
from tests.core.driving import PEOPLE, Setting
from tests.core.scene import Scene, codes

ANN, BOB, _ = PEOPLE


def test_the_record_of_a_notice_does_not_name_the_place_of_the_message_in_the_queue() -> None:
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
