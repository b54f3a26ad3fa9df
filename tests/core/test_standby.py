"""RCPT answered from a standby that lacks the last change: nothing comes of what it says alone."""

from collections.abc import Iterator

import pytest

from tests.core.driving import PEOPLE, Setting
from tests.core.scene import Scene, codes

ANN, *_ = PEOPLE
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
