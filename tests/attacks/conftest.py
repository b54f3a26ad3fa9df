"""Attacks use the listeners of tests/intake."""

from tests.intake.conftest import listen

__all__ = ["listen"]
