"""The error of a configuration that cannot be used."""

from collections.abc import Sequence


class ConfigError(Exception):
    """The configuration cannot be used. `faults`: `FILE: key.path: what and what instead`."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)
