"""RCPT answered from a standby that lacks the last change: nothing comes of what it says alone."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

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


def test_what_the_standby_does_not_know_yet_is_obeyed_at_the_last_look(scene: Scene) -> None:
    assert codes(scene.mail(ANN, suppressed=[ANN])) == [250]
    assert codes(scene.send()) == [550]
    assert scene.mailed == set()


def test_who_is_permitted_by_now_is_not_refused_by_what_the_standby_says(scene: Scene) -> None:
    scene.world.passes_time()
    scene.world.past.people[ANN].scopes = {"all"}  # which was lifted since
    assert codes(scene.mail(ANN)) == [250]
    assert codes(scene.send()) == [250]


def test_where_the_standby_lacks_nothing_the_primary_is_asked_for_the_version_alone(
    scene: Scene,
) -> None:
    scene.world.passes_time()
    scene.world.passes_time()
    scene.world.past.now = scene.world.now
    assert codes(scene.mail(ANN)) == [250]
    assert scene.asked.count("facts") == 1
    scene.send()
    assert scene.asked.count("facts") == 1


def test_a_message_counts_for_whoever_wishes_for_less_when_the_standby_does_not_know_of_it_yet(
    scene: Scene,
) -> None:
    scene.driver.services = replace(scene.driver.services, counts_mailings=False)
    scene.mail(BOB)
    scene.world.passes_time()
    long_ago = scene.world.now - timedelta(days=30)
    scene.world.people[ANN].wished_at = long_ago  # of a purpose that got its name just now
    assert codes(scene.rcpt(ANN)) == [250]
    assert set(codes(scene.send())) == {250}
    assert scene.counted == {ANN}
