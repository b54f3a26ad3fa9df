"""`explain` predicts what the relay does: the same mail, people and replies.

Many small configurations and messages go through both.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.dry_run import Question, dry_run
from smtpproxy.core.explanation import explain
from smtpproxy.core.services import StreamChoice
from smtpproxy.policy.model import DEFAULT_STREAM, Action, Lookups, Mode, RecipientFacts, Stream
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.relay.content import Content, Spool
from smtpproxy.settings import (
    ListenerSettings,
    PolicySettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TcpAddress,
    UpstreamSettings,
)
from smtpproxy.wire.content import stuffed
from tests.core.driving import PEOPLE, SENDER, STREAMS, Setting
from tests.core.present import Present, facts_of, streams
from tests.core.world import UnderWay, World
from tests.kit.messages import marketing
from tests.kit.soak import SOAK, times

ANN, BOB, CYD = PEOPLE


class Case(Struct, frozen=True):
    """A configuration and a message; `offers` and `receipts` change those streams."""

    recipients: tuple[str, ...] = (ANN, BOB)
    withdrawn: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()  # scope all
    certain: bool = True
    header: str | None = None
    on_mixed: str = "refuse"
    sender: str = SENDER
    has_way_out: bool = True
    offers: Mapping[str, object] = {}
    receipts: Mapping[str, object] = {}

    @property
    def streams(self) -> dict[str, Stream]:
        usual = streams(Setting("smtp"))
        return {
            "offers": replace(usual["offers"], **self.offers),
            "receipts": replace(usual["receipts"], **self.receipts),
        }

    @property
    def world(self) -> World:
        world = World()
        for name in self.withdrawn:
            world.people[name].consents = False
        for name in self.suppressed:
            world.people[name].scopes = {"all"}
        return world

    @property
    def content(self) -> bytes:
        kept = {} if self.has_way_out else {"unsubscribe": None, "one_click": None}
        return marketing(stream=self.header, message_id="<1@shop.example>", **kept)

    @property
    def names(self) -> Sequence[str]:
        return STREAMS[:1] if self.certain else STREAMS


class Outcome(Struct, frozen=True):
    """Who is mailed, and the refusals that are answered or printed, without ids."""

    mailed: frozenset[str]
    refusals: frozenset[str]


def relayed(case: Case) -> Outcome:
    """The outcome when everything works and the upstream accepts all."""
    world = case.world
    setting = Setting("smtp", on_mixed=case.on_mixed)  # type: ignore[arg-type]
    driver = Present(world, setting, case.streams)
    try:
        driven = driver.begin(case.sender, case.names)
        stream = case.header if case.header in STREAMS else STREAMS[0]
        world.current = UnderWay(driven.id, case.sender, stream=stream)
        asked = driven.rcpt(*case.recipients)
        _all_well(driver, world)
        answers = list(asked.answers or ())
        if any(answer.code < 300 for answer in answers):
            asked = driven.data(case.content)
            _all_well(driver, world)
            answers += asked.answers or ()
        copies = [sent for sent in world.current.sent if not sent.is_notice]
        return Outcome(
            frozenset(name for sent in copies for name in sent.recipients),
            frozenset(_bare(f"{a.code} {a.text}") for a in answers if a.code >= 400),
        )
    finally:
        driver.close()


def explained(case: Case) -> Outcome:
    permitted = [case.streams[name] for name in case.names]
    world = case.world
    question = Question(
        choice=StreamChoice.of(permitted, permitted[0]),
        protocol="smtp",
        listener="apps",
        reverse_path=case.sender,
        recipients=case.recipients,
        now=world.now,
    )
    content = Content(Spool(Path(), threshold=1 << 30))
    content.append(stuffed(case.content))
    answers = asyncio.run(dry_run(_settings(case), question, content, Facts(world), None))
    found = explain(question, answers, _BOOKS)
    passes = found.message is None or found.message.action is Action.ALLOW
    allowed = [r.address for r in found.recipients if r.verdict.action is Action.ALLOW]
    mailed = case.recipients if found.observed else allowed if passes else ()
    replies = [*(recipient.reply for recipient in found.recipients), found.message_reply]
    return Outcome(frozenset(mailed), frozenset(_bare(str(reply)) for reply in replies if reply))


class Facts:
    """A store of people who never change their minds."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def facts(self, lookups: Lookups) -> Mapping[str, RecipientFacts]:
        return facts_of(self._world, lookups.addresses)


def _settings(case: Case) -> Settings:
    server = ServerSettings("relay.example", Path())
    listener = ListenerSettings("apps", TcpAddress("127.0.0.1", 2525))
    upstream = UpstreamSettings(TcpAddress("127.0.0.1", 25))
    return replace(
        Settings(server, (listener,), upstream, StoreSettings("sqlite:///x")),
        streams={**case.streams, DEFAULT_STREAM.name: DEFAULT_STREAM},
        policy=PolicySettings(on_mixed=case.on_mixed),  # type: ignore[arg-type]
        rulebooks=_BOOKS,
    )


_BOOKS = {"fr": builtin("fr")}


def _all_well(driver: Present, world: World) -> None:
    while world.outstanding:
        world.answer(world.outstanding[0], "ok")
        driver.settle()


def _bare(text: str) -> str:
    return re.sub(r" id=\S+", "", text)


def differs(case: Case) -> str:
    """What is predicted but not done, or done but not predicted; empty if they agree."""
    does, says = relayed(case), explained(case)
    if does.mailed != says.mailed:
        return f"mailed: {sorted(does.mailed)}, explained: {sorted(says.mailed)}"
    if does.refusals != says.refusals:
        return f"heard: {sorted(does.refusals)}, explained: {sorted(says.refusals)}"
    return ""


OBSERVED = {"mode": Mode.OBSERVE}
LATE = {"refuse_at_data": True}
PAUSED = {"paused": True}
ADDED = {"unsubscribe_scope": "marketing"}

CASES = {
    "all allowed": Case(),
    "one refused at RCPT": Case(withdrawn=(BOB,)),
    "paused": Case(offers=PAUSED),
    "split": Case(withdrawn=(BOB,), on_mixed="split", certain=False),
    "no way out": Case(has_way_out=False),
    "observed": Case(offers=OBSERVED),
    "late": Case(withdrawn=(BOB,), offers=LATE),
    "late, one reply for all": Case(withdrawn=(ANN, BOB), offers=LATE),
    "late and paused": Case(withdrawn=(BOB,), offers={**LATE, **PAUSED}),
    "uncertain, and one is observed": Case(
        suppressed=(BOB,), certain=False, header="receipts", offers=OBSERVED
    ),
    "uncertain, and one is late": Case(
        suppressed=(BOB,), certain=False, header="receipts", offers=LATE
    ),
    "several links and no sender": Case(has_way_out=False, offers=ADDED, sender=""),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_explain_predicts_chosen_cases(case: Case) -> None:
    assert differs(case) == ""


def any_of(*values: Mapping[str, object]) -> st.SearchStrategy[Mapping[str, object]]:
    """One of them, two of them, or none."""
    pairs = [{**one, **other} for one in values for other in values]
    return st.sampled_from([{}, *values, *pairs])


people = st.sampled_from([(), (), (ANN,), (BOB,), (CYD,), (ANN, BOB)])
cases = st.builds(
    Case,
    recipients=st.permutations(PEOPLE).flatmap(
        lambda names: st.sampled_from([tuple(names), tuple(names[:2]), tuple(names[:1])])
    ),
    withdrawn=people,
    suppressed=people,
    certain=st.booleans(),
    header=st.sampled_from([None, *STREAMS, "unknown"]),
    on_mixed=st.sampled_from(["refuse", "split"]),
    sender=st.sampled_from([SENDER, SENDER, ""]),
    has_way_out=st.sampled_from([True, True, False]),
    offers=any_of(OBSERVED, LATE, PAUSED, ADDED),
    receipts=any_of(OBSERVED, LATE),
)


@settings(
    max_examples=times(60, 3_000),
    deadline=None,
    derandomize=not SOAK,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(case=cases)
def test_explain_predicts_any_case(case: Case) -> None:
    assert differs(case) == ""
