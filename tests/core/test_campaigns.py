"""A new campaign on trial: who counts towards it, and when the count is taken back."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.campaign import Campaign, Trial
from smtpproxy.policy.model import Mode
from smtpproxy.store.records import StoreUnavailable
from tests.core.driving import PEOPLE, Setting
from tests.core.present import streams
from tests.core.scene import Scene, codes, failing
from tests.kit.messages import marketing

ANN, BOB, CYD = PEOPLE
SETTINGS = [Setting("lmtp", refuses_at_data=True), Setting("milter", refuses_at_data=True)]
CAMPAIGN = marketing(headers=[("Feedback-ID", "spring:shop")])


class _Campaigns:
    """The people counted for one campaign, and whether each is a stranger."""

    def __init__(self) -> None:
        self.known = Campaign("")
        self.counted: dict[str, bool] = {}
        self.fails = False

    async def count_campaign(
        self, stream: str, key: str, id: str, people: Mapping[str, bool], at: datetime, most: int
    ) -> Campaign:
        if self.fails:
            raise StoreUnavailable("the counts cannot be read")
        assert (stream, most) == ("offers", 10)
        self.counted.update(people)
        return replace(self.known, key=key)

    async def uncount_campaign(
        self, key: str, id: str, people: Mapping[str, bool], most: int
    ) -> None:
        assert most == 10
        for name, stranger in people.items():
            assert self.counted.pop(name) is stranger


@pytest.fixture(name="tried")
def _tried() -> _Campaigns:
    return _Campaigns()


def _scene(setting: Setting, tried: _Campaigns, mode: Mode = Mode.ENFORCE) -> Scene:
    given = streams(setting)
    given["offers"] = replace(given["offers"], trial=Trial(10), mode=mode)
    scene = Scene(setting, given)
    scene.driver.performer.campaigns = tried  # type: ignore[assignment]
    return scene


@pytest.fixture(name="scene", params=SETTINGS, ids=lambda s: s.name)
def _relayed(request: pytest.FixtureRequest, tried: _Campaigns) -> Iterator[Scene]:
    scene = _scene(request.param, tried)
    yield scene
    scene.driver.close()


def _full(scene: Scene) -> Campaign:
    return Campaign("", 10, strangers=9, full_at=scene.world.now - timedelta(hours=1))


def test_only_people_who_get_the_message_are_counted(scene: Scene, tried: _Campaigns) -> None:
    scene.mail(ANN, suppressed=[BOB])
    if scene.setting.relays:
        scene.rcpt(BOB)
        assert codes(scene.send(CAMPAIGN)) == [250, 550]
    else:
        assert codes(scene.send(CAMPAIGN)) == [250]
    assert tried.counted == {ANN: True}


def test_while_the_campaign_waits_nobody_is_mailed_or_counted(
    scene: Scene, tried: _Campaigns
) -> None:
    tried.known = _full(scene)
    scene.mail(ANN)
    scene.rcpt(CYD)
    assert codes(scene.send(CAMPAIGN)) == [450, 450]
    assert (scene.mailed, tried.counted, scene.counted) == (set(), {}, set())


def test_a_message_of_no_campaign_is_not_on_trial(scene: Scene, tried: _Campaigns) -> None:
    tried.known = _full(scene)
    scene.mail(ANN)
    assert codes(scene.send(marketing(body="Hello.\r\n"))) == [250]
    assert tried.counted == {}


def test_mail_is_deferred_when_the_campaign_cannot_be_counted(
    scene: Scene, tried: _Campaigns
) -> None:
    tried.fails = True
    scene.mail(ANN)
    assert codes(scene.send(CAMPAIGN)) == [451]
    assert (scene.mailed, scene.counted) == (set(), set())


def test_observed_mail_passes_when_the_campaign_cannot_be_counted(tried: _Campaigns) -> None:
    scene = _scene(SETTINGS[0], tried, Mode.OBSERVE)
    tried.fails = True
    scene.mail(ANN)
    assert codes(scene.send(CAMPAIGN)) == [250]
    assert scene.mailed == {ANN}
    scene.driver.close()


@pytest.mark.parametrize("result", ["later", "never"])
def test_a_recipient_the_upstream_refused_is_not_counted(tried: _Campaigns, result: str) -> None:
    scene = _scene(SETTINGS[0], tried)
    scene.mail(ANN)
    answers = failing("end", result)  # type: ignore[arg-type]
    assert codes(scene.send(CAMPAIGN, answers)) == [451 if result == "later" else 550]
    assert (tried.counted, scene.counted) == ({}, set())
    scene.driver.close()
