"""How long a test goes on: bounded in `make test`, for long in `make soak`.

What has a long form says `pytestmark = pytest.mark.soak` and takes its numbers from here.
"""

import os

import pytest

SOAK = os.environ.get("SMTPPROXY_TEST_SOAK") == "1"
LONGEST = 1800 if SOAK else 180  # seconds that one test may take
only_at_length = pytest.mark.skipif(not SOAK, reason="goes with make soak")


def times(few: int, many: int) -> int:
    """How many messages are sent, or examples tried."""
    return many if SOAK else few
