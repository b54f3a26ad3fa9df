"""On an observed stream mail passes, whatever fails and whoever would be refused."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Mode
from tests.core.driving import PEOPLE, Setting
from tests.core.present import streams
from tests.core.scene import Scene, codes, failing

ANN = PEOPLE[0]
SETTINGS = [Setting("smtp"), Setting("lmtp"), Setting("milter"), Setting("policy")]


@pytest.fixture(name="observed", params=SETTINGS, ids=lambda s: s.name)
def _observed(request: pytest.FixtureRequest) -> Iterator[Scene]:
    given = {name: replace(s, mode=Mode.OBSERVE) for name, s in streams(request.param).items()}
    scene = Scene(request.param, given)
    yield scene
    scene.driver.close()


def _passed(scene: Scene) -> set[str]:
    """The people who were mailed, or left to the MTA."""
    assert scene.world.current is not None
    return scene.mailed | scene.world.current.handed_over


def test_recipients_who_would_be_refused_are_mailed(observed: Scene) -> None:
    observed.mail(ANN)
    observed.suppress(ANN)
    assert codes(observed.send()) == [250]
    assert _passed(observed) == {ANN}
    (decided,) = observed.decided
    assert (decided.observed, decided.relayed) == (True, True)
    if observed.setting.intake != "policy":  # which counts only people who limited their mail
        assert observed.counted == {ANN}


@pytest.mark.parametrize("kind", ["facts", "version"])
def test_mail_passes_when_the_store_fails_at_rcpt(observed: Scene, kind: str) -> None:
    assert codes(observed.mail(ANN, answers=failing(kind))) == [250]
    assert codes(observed.send()) == [250]
    assert _passed(observed) == {ANN}


def test_mail_passes_when_the_store_fails_after_the_record(observed: Scene) -> None:
    assert codes(observed.mail(ANN, answers=failing("version", after="record"))) == [250]
    assert codes(observed.send(answers=failing("version", after="record"))) == [250]
    assert _passed(observed) == {ANN}


@pytest.mark.parametrize("kind", ["facts", "version", "count", "record"])
def test_mail_passes_when_a_part_fails_at_the_end(observed: Scene, kind: str) -> None:
    observed.mail(ANN)
    observed.world.passes_time()
    assert codes(observed.send(answers=failing(kind))) == [250]
    assert _passed(observed) == {ANN}
