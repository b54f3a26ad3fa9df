"""The promises of design.md section 1, whatever happens in whatever order and whatever fails.

The client talks, people change their minds, and every effect stays outstanding until it is
answered, well or not. What must hold is checked after each step. With `frozen`, nobody changes
their mind while a transaction is open, and the upstream takes every RSET.
"""

from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.driving import PEOPLE, SENDER, STREAMS, Driven, Question, Setting
from tests.core.present import Present
from tests.core.world import OWN, Effect, Result, UnderWay, World
from tests.kit.messages import marketing
from tests.kit.soak import LONGEST, SOAK, times

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LONGEST)]

FAILURES: list[Result] = ["later", "never", "lost"]
SETTINGS = [
    Setting("smtp"),
    Setting("smtp", "split"),
    Setting("smtp", adds_links=True),
    Setting("smtp", "split", adds_links=True),
    Setting("smtp", "split", refuses_at_data=True),
    Setting("smtp", "split", adds_links=True, refuses_at_data=True),
    Setting("lmtp"),
    Setting("lmtp", adds_links=True),
    Setting("lmtp", adds_links=True, refuses_at_data=True),
    Setting("milter"),
    Setting("milter", "split", refuses_at_data=True),
    Setting("policy"),
]
CHANGES = ("withdraws", "all", "marketing", "purpose:offers", "wants it", "wants it")


class Promises(RuleBasedStateMachine):
    """One relay, or one adviser of an MTA, and one message after another."""

    setting: Setting
    frozen: bool

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.driver = Present(self.world, self.setting)
        self.open: Driven | None = None
        self.asked: Question | None = None  # what is due
        self.ending = False  # the end of data was asked
        self.accepted: list[str] = []
        self.contents = 0
        self.content: tuple[str, str | None, int] = ("", None, 0)
        self.copied: dict[tuple[str, str | None, int], set[str]] = {}  # whose client has a 4xx
        self.known: set[str] = set()  # the store has answered about them
        self.failures: dict[str, Result] = {}  # of the effects of this question, by kind

    # the world

    @initialize(known=st.lists(st.sampled_from(list(product(PEOPLE, CHANGES))), max_size=3))
    def people(self, known: list[tuple[str, str]]) -> None:
        for name, change in known:
            self._changes(name, change)

    @precondition(lambda self: not self.frozen or self.open is None)
    @rule(name=st.sampled_from(PEOPLE), change=st.sampled_from(CHANGES))
    def somebody_changes_their_mind(self, name: str, change: str) -> None:
        self._changes(name, change)

    @precondition(lambda self: not self.frozen)
    @rule()
    def the_sender_is_suppressed(self) -> None:
        self.world.people[SENDER].scopes = {"all"}

    def _changes(self, name: str, change: str) -> None:
        person = self.world.people[name]
        self.world.passes_time()
        if change == "wants it":
            person.consents, person.scopes = True, set()
        elif change == "withdraws":
            person.consents = False
        else:
            person.scopes.add(change)

    @precondition(lambda self: self.world.outstanding)
    @rule(index=st.integers(0, 7), result=st.sampled_from(["ok", "ok", "ok", *FAILURES]))
    def an_effect_is_answered(self, index: int, result: Result) -> None:
        effects = self.world.outstanding
        self._answer(effects[index % len(effects)], result)

    @precondition(lambda self: self.world.outstanding)
    @rule(results=st.lists(st.sampled_from(["ok"] * 17 + FAILURES), min_size=3, max_size=25))
    def several_are_answered(self, results: list[Result]) -> None:
        """In their order, as they are asked."""
        for result in results:
            if self.world.outstanding:
                self._answer(self.world.outstanding[0], result)

    @precondition(lambda self: self.world.outstanding)
    @rule()
    def all_goes_well_for_a_while(self) -> None:
        for _ in range(200):
            if not self.world.outstanding:
                return
            self._answer(self.world.outstanding[0], "ok")
        raise AssertionError("there is no end to what is asked")

    def _answer(self, effect: Effect, result: Result) -> None:
        if effect.kind == "rset" and self.frozen and result != "lost":
            result = "ok"
        if self.asked is not None and effect.kind in OWN:
            self.failures[effect.kind] = result
        self.world.answer(effect, result)
        self.driver.settle()
        self._look()

    # the client

    @precondition(lambda self: self.asked is None and not self.ending)
    @rule(
        names=st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=4),
        sender=st.sampled_from([SENDER, SENDER, SENDER, ""]),
        certain=st.booleans(),
    )
    def rcpt(self, names: list[str], sender: str, certain: bool) -> None:
        """The first of a message begins it."""
        if self.open is None:
            self.certain = certain or self.setting.intake == "policy"
            self.open = self.driver.begin(sender, STREAMS[:1] if self.certain else STREAMS)
            self.world.current = UnderWay(self.open.id, sender, stream=STREAMS[0])
            self.accepted, self.known = [], set()
        self.failures = {}
        self.asked = self.open.rcpt(*(names if self.setting.relays else names[:1]))
        self._look()

    @precondition(lambda self: self.open is not None and self.asked is None and self.accepted)
    @rule(header=st.sampled_from([None, *STREAMS]), again=st.booleans())
    def data(self, header: str | None, again: bool) -> None:
        """`again`: with the very content of the last one, as who retries sends it."""
        assert self.open is not None
        assert self.world.current is not None
        header = None if self.certain else header
        self.world.current.stream = header or STREAMS[0]
        links = {"unsubscribe": None, "one_click": None} if self.setting.adds_links else {}
        self.contents += not again
        self.content = self._current.reverse_path, header, self.contents
        mail = marketing(stream=header, message_id=f"<{self.contents}@shop.example>", **links)  # type: ignore[arg-type]
        self.ending, self.failures = True, {}
        self.asked = self.open.data(mail)
        self._look()

    @precondition(lambda self: self.open is not None and self.asked is None)
    @rule(really=st.sampled_from([False, False, False, True]))
    def the_client_gives_up(self, really: bool) -> None:
        if not really:
            return
        assert self.open is not None
        assert self.world.current is not None
        self.world.current.aborted = True
        self.open.abort()
        self._over()

    def teardown(self) -> None:
        try:
            self.all_goes_well_for_a_while()
            if self.open is not None:
                self.the_client_gives_up(really=True)
                self.all_goes_well_for_a_while()
            assert self.driver.held() == 0, "a connection was never given back"
        finally:
            self.driver.close()

    # the promises

    @invariant()
    def nothing_forbidden_and_nothing_unrecorded_is_mailed(self) -> None:
        assert self.world.violations == []

    def _look(self) -> None:
        """What is answered is taken note of; what is not must be waiting for something."""
        asked = self.asked
        if asked is None:
            return
        if asked.error is not None:
            raise AssertionError("a fault of the program") from asked.error
        if asked.due:
            assert self.world.outstanding, f"silence about {asked.about}"
            return
        self.asked = None
        assert not self.world.waited_for(), "answered before it was known"
        assert asked.answers is not None
        assert len(asked.answers) == len(asked.about), "not one answer for each recipient"
        if self.ending:
            self._message_answered(asked)
            self._over()
        else:
            self._recipients_answered(asked)

    def _recipients_answered(self, asked: Question) -> None:
        if self.failures.get("facts", "ok") == "ok":
            self.known |= set(asked.about)
        for name, answer in zip(asked.about, asked.answers or (), strict=True):
            if not self.setting.refuses_at_data:  # else it is the end that shows
                self._failures_defer(answer.code, ("facts", "record"))
            if answer.code < 300:
                self.accepted.append(name)
                assert not self.setting.relays or name in self._current.taken
            elif answer.code >= 500:
                self._refusal_is_known(name)

    def _message_answered(self, asked: Question) -> None:
        current = self._current
        assert list(asked.about) == self.accepted
        told = " ".join(s.content for s in current.sent if s.is_notice and s.code == 250)
        taken = [r for s in current.sent if s.code == 250 and not s.is_notice for r in s.recipients]
        before = self.copied.pop(self.content, set())
        assert not before.intersection(taken), "mailed at this attempt and at one before"
        if self.setting.adds_links and any(400 <= a.code < 500 for a in asked.answers or ()):
            self.copied[self.content] = before.union(taken)
        for name, answer in zip(asked.about, asked.answers or (), strict=True):
            mailed = name in taken or name in current.handed_over or name in before
            assert taken.count(name) <= self.accepted.count(name), f"{name} is mailed twice"
            self._failures_defer(answer.code, ("facts", "record", "count"))
            if name not in self.known and "facts" not in self.failures:
                assert answer.code >= 400, f"{answer} for {name}, of whom nothing is known"
            if answer.code < 300:
                assert mailed or name in told, f"250 for {name}: not mailed, and nobody was told"
            elif answer.code >= 500:
                assert not mailed, f"{answer} for {name}, who is mailed"
                self._refusal_is_known(name, answer.text)
        if not self.setting.relays or self.setting.on_mixed == "split":
            assert len({answer.code for answer in asked.answers or ()}) == 1

    def _failures_defer(self, code: int, kinds: tuple[str, ...]) -> None:
        """Neither does what failed last let mail pass, nor does it refuse for good."""
        failed = [kind for kind in kinds if self.failures.get(kind, "ok") != "ok"]
        assert not failed or 400 <= code < 500, f"{code} after a failure: {failed}"

    def _refusal_is_known(self, name: str, text: str = "") -> None:
        """A 5xx is the upstream's, or on record, or needs no decision (5.5.4: one each)."""
        lines = [line for line in self.world.journal if line.id == self._current.id]
        ours = any(line.refuses_all or name in line.refused for line in lines)
        theirs = any(code >= 500 for code in self._current.codes)
        assert ours or theirs or text.startswith("5.5.4"), f"{name} is refused without a record"

    def _counts_are_right(self) -> None:
        """Counted is who was mailed, or may have been; nobody else but where that failed."""
        current = self._current
        counted = self.world.counted.get(current.id, set())
        mailed = {
            r for s in current.sent if s.code == 250 and not s.is_notice for r in s.recipients
        }
        perhaps = {r for s in current.sent if s.code is None for r in s.recipients}
        if current.stream == "offers" and self.setting.intake != "policy":
            assert mailed | current.handed_over <= counted, "mailed, and not counted"
        if self.failures.get("release", "ok") == "ok":
            assert counted <= mailed | current.handed_over | perhaps, "counted, and not mailed"

    def _over(self) -> None:
        self._counts_are_right()
        self.open, self.asked, self.ending = None, None, False

    @property
    def _current(self) -> UnderWay:
        assert self.world.current is not None
        return self.world.current


def explore(setting: Setting, *, frozen: bool, examples: int, **more: Any) -> None:
    machine = type("Machine", (Promises,), {"setting": setting, "frozen": frozen})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=not SOAK,
            report_multiple_bugs=False,
            database=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


@every_setting
def test_while_nobody_changes_their_mind(setting: Setting) -> None:
    explore(setting, frozen=True, examples=times(50, 2_000))


@every_setting
def test_whatever_changes_meanwhile(setting: Setting) -> None:
    explore(setting, frozen=False, examples=times(150, 10_000), phases=[Phase.generate])
