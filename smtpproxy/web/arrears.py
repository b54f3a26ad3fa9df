"""What webhooks were not told yet, as gauges."""

from collections.abc import Mapping
from datetime import datetime

from smtpproxy.sinks.snapshot import Labels, Samples
from smtpproxy.store.propagation import Arrears


def webhook_gauges(arrears: Mapping[str, Arrears], now: datetime) -> Mapping[str, Samples]:
    """Return the gauges of what a store's `arrears()` said. A lag is in seconds."""
    lag: dict[Labels, float] = {}
    for name, owed in arrears.items():
        age = 0.0 if owed.oldest is None else (now - owed.oldest).total_seconds()
        lag[(name,)] = max(0.0, age)
    return {
        "webhook_lag_seconds": lag,
        "webhook_dead_letters": {(name,): owed.dead_letters for name, owed in arrears.items()},
        "webhook_disabled": {(name,): owed.disabled for name, owed in arrears.items()},
    }
