"""The promises of design.md section 1, whatever happens in whatever order and whatever fails.

A walk is drawn from its seed, and the same each time. `walk.py` has what must hold.
"""

from random import randrange

import pytest

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
    Setting("lmtp"),
    Setting("lmtp", adds_links=True),
    Setting("lmtp", adds_links=True, refuses_at_data=True),
    Setting("milter"),
    Setting("milter", "split", refuses_at_data=True),
    Setting("policy"),
]
STEPS = 40

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


def explore(setting: Setting, *, frozen: bool, walks: int) -> None:
    first = randrange(2**32) if SOAK else 0
    for number in range(first, first + walks):
        walk = Walk(setting, f"{setting.name}, {number}", frozen=frozen)
        try:
            walk.run(STEPS)
            walk.end()
        except Exception as error:
            steps = "\n".join(walk.steps)
            raise AssertionError(f"walk {number} of {setting.name}: {error}\n{steps}") from error


@every_setting
def test_while_nobody_changes_their_mind(setting: Setting) -> None:
    explore(setting, frozen=True, walks=times(60, 5_000))


@every_setting
def test_whatever_changes_meanwhile(setting: Setting) -> None:
    explore(setting, frozen=False, walks=times(250, 20_000))
