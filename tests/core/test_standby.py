"""RCPT answered from a standby that lags: nothing is decided by what it says alone."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from tests.core.driving import PEOPLE, Setting
from tests.core.scene import Scene, codes

ANN, BOB, _ = PEOPLE
SETTINGS = [
    Setting("smtp", standby=True),
    Setting("smtp", "split", refuses_at_data=True, standby=True),
    Setting("lmtp", adds_links=True, standby=True),
    Setting("milter", standby=True),
]


@pytest.fixture(name="scene", params=SETTINGS, ids=lambda setting: setting.name)
def _scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param)
    yield scene
    scene.driver.close()


def test_a_change_the_standby_lacks_is_obeyed_at_the_last_look(scene: Scene) -> None:
    assert codes(scene.mail(ANN, suppressed=[ANN])) == [250]
    assert codes(scene.send()) == [550]
    assert scene.mailed == set()


def test_a_recipient_permitted_since_is_not_refused_because_of_the_standby(scene: Scene) -> None:
    scene.world.passes_time()
    scene.world.past.people[ANN].scopes = {"all"}  # lifted since
    assert codes(scene.mail(ANN)) == [250]
    assert codes(scene.send()) == [250]


def test_an_up_to_date_standby_needs_only_the_version_from_the_primary(
    scene: Scene,
) -> None:
    scene.world.passes_time()
    scene.world.passes_time()
    scene.world.past.now = scene.world.now
    assert codes(scene.mail(ANN)) == [250]
    assert scene.asked.count("facts") == 1
    scene.send()
    assert scene.asked.count("facts") == 1


def test_a_message_counts_for_somebody_whose_limit_the_standby_does_not_know_yet(
    scene: Scene,
) -> None:
    scene.driver.services = replace(scene.driver.services, counts_mailings=False)
    scene.mail(BOB)
    scene.world.passes_time()
    long_ago = scene.world.now - timedelta(days=30)
    scene.world.people[ANN].wished_at = long_ago  # for a purpose that was named just now
    assert codes(scene.rcpt(ANN)) == [250]
    assert set(codes(scene.send())) == {250}
    assert scene.counted == {ANN}
