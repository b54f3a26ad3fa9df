"""Fixtures of other tests for the attacks: relays with people, listeners in this process."""

from tests.e2e.conftest import filled, mta
from tests.intake.conftest import listen

__all__ = ["filled", "listen", "mta"]
