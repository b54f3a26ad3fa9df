"""How long tests run: briefly in `make test`, for long in `make soak`.

Tests with a long form have `pytestmark = pytest.mark.soak` and take their numbers from here.
"""

import os

import pytest

SOAK = os.environ.get("SMTPPROXY_TEST_SOAK") == "1"
LONGEST = 1800 if SOAK else 180  # seconds for one test
only_at_length = pytest.mark.skipif(not SOAK, reason="goes with make soak")


def times(few: int, many: int) -> int:
    """The number of messages to send or examples to try."""
    return many if SOAK else few
