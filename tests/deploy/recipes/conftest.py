"""Relays configured as in docs/deploy, each shared by the tests of one file."""

from tests.e2e.conftest import filled, mta

__all__ = ["filled", "mta"]
