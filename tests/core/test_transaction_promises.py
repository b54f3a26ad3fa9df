"""The promises of design.md section 1, whatever happens or fails, in whatever order.

`walk.py` has the steps and what must hold after each. Most walks are cheap, drawn from fixed
seeds; a few are drawn by a state machine of hypothesis, which in `make soak` shrinks failures.
"""

from collections.abc import Callable
from random import Random, randrange
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.driving import Setting
from tests.core.walk import Walk
from tests.kit.soak import LONGEST, SOAK, times

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LONGEST)]

SETTINGS = [
    Setting("smtp"),
    Setting("smtp", "split"),
    Setting("smtp", adds_links=True),
    Setting("smtp", "split", adds_links=True),
    Setting("smtp", "split", refuses_at_data=True),
    Setting("smtp", "split", adds_links=True, refuses_at_data=True),
    Setting("smtp", returns=True),
    Setting("smtp", "split", returns=True, refuses_at_data=True),
    Setting("lmtp", adds_links=True, returns=True),
    Setting("lmtp"),
    Setting("lmtp", adds_links=True),
    Setting("lmtp", adds_links=True, refuses_at_data=True),
    Setting("smtp", standby=True),
    Setting("smtp", "split", refuses_at_data=True, standby=True),
    Setting("lmtp", adds_links=True, standby=True),
    Setting("milter", standby=True),
    Setting("milter"),
    Setting("milter", "split", refuses_at_data=True),
    Setting("policy"),
]
STEPS = 40

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


def explore(setting: Setting, *, frozen: bool, walks: int) -> None:
    first = randrange(2**32) if SOAK else 0
    for number in range(first, first + walks):
        walk = Walk(setting, Random(f"{setting.name}, {number}"), frozen=frozen)
        try:
            walk.run(STEPS)
            walk.end()
        except Exception as error:
            steps = "\n".join(walk.steps)
            raise AssertionError(f"walk {number} of {setting.name}: {error}\n{steps}") from error


@every_setting
def test_promises_hold_while_nobody_changes_their_mind(setting: Setting) -> None:
    explore(setting, frozen=True, walks=times(8, 5_000))


@every_setting
def test_promises_hold_whatever_changes_meanwhile(setting: Setting) -> None:
    explore(setting, frozen=False, walks=times(35, 20_000))


# the same steps, in an order that hypothesis draws


def step(name: str) -> Callable[..., None]:
    def do(machine: Any) -> None:
        machine.walk.do(name)

    return precondition(lambda machine: machine.walk.may(name))(rule()(do))


class Promises(RuleBasedStateMachine):
    """A walk whose every choice is drawn by hypothesis."""

    setting: Setting

    def __init__(self) -> None:
        super().__init__()
        self.walk: Walk

    @initialize(draw=st.randoms(use_true_random=False))
    def begin(self, draw: Random) -> None:
        self.walk = Walk(self.setting, draw, frozen=False)

    somebody_changes_their_mind = step("_somebody_changes_their_mind")
    the_sender_is_suppressed = step("_the_sender_is_suppressed")
    an_effect_is_answered = step("_an_effect_is_answered")
    several_are_answered = step("_several_are_answered")
    all_is_answered = step("_all_is_answered")
    rcpt = step("_rcpt")
    data = step("_data")
    the_client_gives_up = step("_the_client_gives_up")
    the_spool_breaks = step("_the_spool_breaks")

    def teardown(self) -> None:
        if hasattr(self, "walk"):
            self.walk.end()


@every_setting
def test_promises_hold_in_any_order(setting: Setting) -> None:
    machine = type("Promises", (Promises,), {"setting": setting})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=times(2, 2_000),
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not SOAK,
            phases=[Phase.generate, *([Phase.shrink] if SOAK else [])],  # which takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
