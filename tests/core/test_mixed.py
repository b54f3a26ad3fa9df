"""A message that only some of its recipients may get, or may get now."""

from collections.abc import Iterable, Iterator, Mapping

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import DEFAULT_STREAM, Mailing
from smtpproxy.policy.periods import parse_cap
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.store.sql.mailings import Mailed
from tests.core.driving import PEOPLE, Setting
from tests.core.present import streams
from tests.core.scene import Scene, codes
from tests.core.world import Person
from tests.kit.messages import marketing
from tests.policy.cases import said

ANN, BOB, CYD = PEOPLE
SPLIT = Setting("smtp", "split", refuses_at_data=True)
SPLIT_COPIES = Setting("smtp", "split", adds_links=True, refuses_at_data=True)
MILTER = Setting("milter", "split", refuses_at_data=True)
LMTP = Setting("lmtp")


@pytest.fixture(name="capped", params=[SPLIT, SPLIT_COPIES, MILTER, LMTP], ids=lambda s: s.name)
def _capped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene in which Bob has had all the stream may send him today."""
    given = streams(request.param)
    given["offers"] = replace(given["offers"], frequency_cap=parse_cap("1/1d"))
    scene = Scene(request.param, given)
    outside, count = scene.driver.outside, scene.driver.outside.reserve

    async def reserve(
        id: str, stream: str, addresses: Iterable[str], at: object
    ) -> Mapping[str, Mailed]:
        await count(id, stream, addresses, at)
        had = Mailed((Mailing("offers", scene.world.now),), scene.world.now)
        return {name: had if name == BOB else Mailed() for name in addresses}

    monkeypatch.setattr(outside, "reserve", reserve)
    yield scene
    scene.driver.close()


@pytest.mark.parametrize("refused", [False, True])
def test_a_deferral_is_never_reported_as_a_refusal(capped: Scene, refused: bool) -> None:
    """A client with one answer for all must retry for all, or not at all."""
    capped.mail(ANN, suppressed=[CYD] if refused else [])
    capped.rcpt(BOB)
    capped.rcpt(CYD)
    answers = codes(capped.send())
    if capped.setting is LMTP:
        assert answers == ([250, 450] if refused else [250, 450, 250])  # 550 at RCPT
        assert capped.counted == capped.mailed == ({ANN} if refused else {ANN, CYD})
        return
    assert set(answers) == {550 if refused else 450}
    message = capped.decided[-1].decision.message
    assert message is not None
    assert said(message) == f"{'refuse' if refused else 'defer'} recipients_refused"
    assert capped.world.current is not None
    assert capped.world.current.handed_over | capped.counted == set()
    assert capped.sent == []


@pytest.mark.parametrize("unsubscribe", [None, "<https://shop.example/u/1>"])
def test_a_message_nobody_may_get_is_refused_for_its_own_fault(unsubscribe: str | None) -> None:
    """So is each recipient whose refusal would otherwise go into a notice."""
    scene = Scene(Setting("lmtp", refuses_at_data=True))
    scene.mail(ANN, BOB, withdrawn=[ANN], suppressed=[BOB])
    answers = scene.send(marketing(unsubscribe=unsubscribe)).answers
    assert answers is not None
    own = ["suppressed_complaint"] * 2 if unsubscribe else ["unsubscribe_missing"] * 2
    own = ["consent_withdrawn", own[1]] if unsubscribe else own
    assert [reason in each.text for each, reason in zip(answers, own, strict=True)] == [True, True]
    scene.driver.close()


@pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "FAILURE", None])
def test_without_a_notice_no_recipient_is_dropped_silently(notify: str | None) -> None:
    scene = Scene(SPLIT)
    scene.driver.notify = notify
    scene.mail(ANN, BOB, suppressed=[BOB])
    told = notify in ("FAILURE", None)
    assert codes(scene.send()) == ([250, 250] if told else [550, 550])
    assert (scene.mailed, len(scene.notices)) == (({ANN}, 1) if told else (set(), 0))
    scene.driver.close()


def test_the_notice_is_judged_by_the_relays_own_rulebook() -> None:
    given = {name: replace(each, rulebook="us") for name, each in streams(SPLIT).items()}
    scene = Scene(SPLIT, given)
    undeclared = replace(DEFAULT_STREAM, rulebook="us")
    scene.driver.services = replace(
        scene.driver.services, rulebooks={"us": builtin("us")}, undeclared=undeclared
    )
    scene.mail(ANN, BOB, suppressed=[BOB])
    assert codes(scene.send()) == [250, 250]
    assert (scene.mailed, len(scene.notices)) == ({ANN}, 1)
    judged = {(each.decision.rulebook, each.decision.stream.rulebook) for each in scene.decided}
    assert judged == {("us", "us")}
    scene.driver.close()


@pytest.mark.parametrize(
    "setting", [SPLIT, Setting("lmtp", refuses_at_data=True)], ids=lambda s: s.name
)
def test_content_the_upstream_cannot_take_is_refused_to_everybody(
    setting: Setting,
) -> None:
    scene = Scene(setting)
    scene.world.keywords, scene.driver.eight_bit = ("PIPELINING",), True
    scene.mail(BOB, ANN, CYD, suppressed=[BOB])
    question = scene.send(marketing().replace(b"shoes are in", "arrivées".encode()))
    assert question.answers is not None
    own = ["suppressed_complaint" in each.text for each in question.answers]
    assert own == ([True, False, False] if setting.intake == "lmtp" else [False] * 3)
    assert codes(question) == [550 if each else 554 for each in own]
    assert (scene.sent, scene.counted, scene.outcomes) == ([], set(), [554])
    scene.driver.close()


def test_a_recipient_without_a_domain_belongs_to_the_relays_own() -> None:
    given = streams(LMTP)
    given["offers"] = replace(given["receipts"], name="offers")
    scene = Scene(LMTP, given)
    scene.world.people["postmaster@relay.example"] = scene.world.people["postmaster"] = Person()
    assert codes(scene.mail("postmaster")) == [250]
    scene.suppress("postmaster@relay.example")
    assert codes(scene.send()) == [550]
    scene.driver.close()
