"""A relay's records, read by the product's own reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smtpproxy.sinks.audit.reader import Record, read
from tests.kit.relay import RelayProcess


def records(relay: RelayProcess, **chosen: Any) -> list[Record]:
    """All records in the relay's journal, or those that `read` selects, in order of time."""
    return sorted(read(folder(relay), **chosen), key=lambda record: record.decided.at)


def folder(relay: RelayProcess) -> Path:
    return Path(relay.config["server"]["state_dir"]) / "audit"


def relayed(entries: Sequence[Record]) -> list[Record]:
    """The messages that were sent to the upstream."""
    return [entry for entry in entries if entry.decided.stage == "data" and entry.decided.relayed]


def outcome(entry: Record) -> int | None:
    """The code of the upstream's reply; None if it is unknown."""
    return None if entry.outcome is None else entry.outcome.code
