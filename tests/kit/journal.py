"""Audit journals with invented decisions, on a clock that a test moves."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from smtpproxy.events import Decided, JudgedRecipient, Relayed, UlidFactory
from smtpproxy.settings import AuditSettings
from smtpproxy.sinks.audit.anchors import Anchor, read_anchor
from smtpproxy.sinks.audit.journal import Journal
from tests.kit import traffic

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """A clock that a test moves; ids are made from it."""

    def __init__(self) -> None:
        self.time = START
        self.new_id = UlidFactory(lambda: int(self.time.timestamp() * 1000), os.urandom)

    def now(self) -> datetime:
        return self.time

    def tick(self, **step: float) -> None:
        self.time += timedelta(**step)


def journal(folder: Path, clock: Clock, worker: int = 0, **settings: Any) -> Journal:
    return Journal(folder, worker, AuditSettings(**settings), now=clock.now, new_id=clock.new_id)


def decided(clock: Clock, to: str = "a@b.example", **over: Any) -> Decided:
    """The decision on a message about to be relayed to one recipient."""
    changes: dict[str, Any] = {
        "id": clock.new_id(),
        "at": clock.now(),
        "recipients": (JudgedRecipient(to, to.lower(), traffic.ALLOWED),),
        "relayed": True,
        **over,
    }
    return msgspec.structs.replace(traffic.decided(traffic.OFFERS, traffic.ALLOWED), **changes)


def relayed(id: str, code: int = 250) -> Relayed:
    return Relayed(id, "apps", "offers", code, f"{code} 2.0.0 queued", 4096, 1)


def anchors(folder: Path) -> list[Anchor]:
    """All anchors of a folder."""
    lines = (folder / "anchors.ndjson").read_bytes().splitlines(keepends=True)
    return [read_anchor(line) for line in lines]


def segments(folder: Path) -> list[Path]:
    """The files of decisions; changes of facts have their own files."""
    return [
        each for each in sorted(folder.glob("*-*.ndjson")) if not each.name.startswith("changes-")
    ]


def modes(path: Path) -> list[int]:
    """The permissions of a folder and the files in it."""
    return [each.stat().st_mode & 0o777 for each in (path, *segments(path))]


WRITER = """
import asyncio, os, structlog, sys
from datetime import UTC, datetime
from pathlib import Path
from smtpproxy.settings import AuditSettings
from smtpproxy.sinks.audit.anchors import Anchor, read_anchor
from smtpproxy.sinks.audit.journal import Journal
from tests.kit.journal import Clock, decided

structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=sys.stderr))

async def main():
    clock = Clock()
    settings = AuditSettings(sync=sys.argv[2], segment_size=100_000)
    log = Journal(Path(sys.argv[1]), 0, settings, now=clock.now, new_id=clock.new_id)
    while True:
        entry = decided(clock)
        await log.commit(entry)
        os.write(1, entry.id.encode() + b"\\n")

asyncio.run(main())
"""
"""A program that commits decisions and prints their ids until it is killed: FOLDER os|disk."""
