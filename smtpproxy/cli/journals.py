"""The audit logs that a command reads: this machine's, or shipped copies; and the store's index of
the decisions of other relays."""

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from smtpproxy.cli import fail, unknown
from smtpproxy.cli.options import option
from smtpproxy.disk import exists, is_dir
from smtpproxy.events import picked
from smtpproxy.policy.model import NOTICE_STREAM
from smtpproxy.settings import Settings
from smtpproxy.shipping.files import RELAY_FILE
from smtpproxy.sinks.audit.chain import UNREADABLE, Head
from smtpproxy.sinks.audit.files import ANCHORS as ANCHORS_FILE
from smtpproxy.sinks.audit.files import segments
from smtpproxy.sinks.audit.reader import Record, find, read
from smtpproxy.store import decisions_elsewhere
from smtpproxy.store.journals import IndexQuery, IndexRow

ANCHORS: Any = option(
    "Anchors kept elsewhere: lines of the log, or of `audit anchor --json`.",
    name="--anchors",
    metavar="FILE",
)


def audit_folder(settings: Settings) -> Path:
    """Return the folder of the audit log. Raises OSError when it may not be read."""
    folder = settings.server.state_dir / "audit"
    with suppress(FileNotFoundError):  # nothing has been decided yet
        os.scandir(folder).close()
    return folder


def read_kept(path: Path | None) -> list[Head]:
    """Read the anchors of a log or of `audit anchor --json`; other lines are skipped."""
    return [head for entry in _kept(path) if (head := _head(entry.get("n"), entry.get("hash")))]


def read_kept_changes(path: Path | None) -> list[Head]:
    """Read the ends of the journal of changes recorded in such anchors."""
    found = []
    for entry in _kept(path):
        end = entry.get("changes")
        if isinstance(end, str):  # as in the log
            n, _, hash = end.partition(" ")
            end = {"n": int(n) if n.isdecimal() and len(n) < 20 else None, "hash": hash}
        if isinstance(end, dict) and (head := _head(end.get("n"), end.get("hash"))):
            found.append(head)
    return found


def _head(n: object, hash: object) -> Head | None:
    if isinstance(n, int) and isinstance(hash, str) and re.fullmatch("[0-9a-f]{64}", hash):
        return Head(n, hash)
    return None


def _kept(path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    found = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            start = line.find("{")
            try:
                entry = json.loads(line[start:]) if start >= 0 else None
            except (ValueError, RecursionError):
                continue
            if not isinstance(entry, dict) or "heads" not in entry:
                continue
            if _head(entry.get("n"), entry.get("hash")):
                found.append(entry)
    if not found:
        fail(f"{path}: no anchor in it; expected lines of the log or of audit anchor --json", 2)
    return found


COPIES: Any = option(
    "Read a folder that `audit ship` has filled, of one relay or several.",
    name="--from",
    metavar="DIR",
)

_LONGEST = 4096  # octets of the file that names a copy's relay


class _RelayFile(msgspec.Struct, frozen=True):
    host: str


class Journal(msgspec.Struct, frozen=True):
    """An audit log; `relay` is its relay's host name, if it is a copy."""

    folder: Path
    relay: str = ""


def journals(settings: Settings, shipped: Path | None) -> list[Journal]:
    """Return this machine's audit log, or those in a folder; end the command if it has none."""
    if shipped is None:
        return [Journal(audit_folder(settings))]
    folders = [shipped, *sorted(path for path in shipped.iterdir() if is_dir(path))]
    found = [
        Journal(folder, _relay(folder))
        for folder in folders
        if exists(folder / ANCHORS_FILE) or segments(folder)
    ]
    if not found:
        fail(
            f"--from: no audit log in {shipped}; expected copies made by `smtpproxy audit ship`", 2
        )
    return found


def _relay(folder: Path) -> str:
    with suppress(OSError, *UNREADABLE), (folder / RELAY_FILE).open("rb") as file:
        return msgspec.json.decode(file.read(_LONGEST), type=_RelayFile).host
    return folder.name


def check_stream(settings: Settings, shipped: Path | None, name: str | None) -> None:
    """End the command if no stream has this name, nor had it in any decision on record."""
    if name is None or name in settings.streams or name == NOTICE_STREAM.name:
        return
    if any(True for log in journals(settings, shipped) for _ in read(log.folder, stream=name)):
        return
    if shipped is None and elsewhere(settings, IndexQuery(stream=name), 1):
        return
    unknown("stream", name, settings.streams, "--stream")


def check_app(settings: Settings, shipped: Path | None, app: str | None) -> None:
    """End the command if no listener is that of this application, nor was in any decision."""
    if app is None:
        return
    name, known = app.partition("/")[0], [one.name for one in settings.listeners]
    if name in known:
        return
    if any(True for log in journals(settings, shipped) for _ in read(log.folder, app=name)):
        return
    unknown("listener", name, known, "--app")


def find_records(logs: Sequence[Journal], id: str) -> list[tuple[Journal, Record]]:
    """Return every record whose id is, or begins with, `id`.

    Raises ValueError when several decisions do.
    """
    records = [(log, record) for log in logs for record in find(log.folder, id)]
    if len({record.decided.id for _, record in records}) > 1:
        raise ValueError(f"several decisions begin with {id}")
    return records


def elsewhere(settings: Settings, wanted: IndexQuery, limit: int) -> Sequence[IndexRow]:
    """Return the index's rows for other relays, newest first; nothing without an index.

    Raises StoreUnavailable, OSError.
    """
    return asyncio.run(decisions_elsewhere(settings, wanted, limit)) or ()


def record_place(row: IndexRow) -> str:
    """Say where a record is."""
    return f"in the audit log of {row.host} (relay {row.relay}), row {row.line} of {row.file}"


def indexed_object(row: IndexRow) -> Mapping[str, Any]:
    """Return everything known here about a decision of another relay."""
    return {
        **picked(row, "id", "at", "stream", "verdict", "reason", "observed"),
        "elsewhere": {
            "relay": row.host,
            "relay_id": row.relay,
            "file": row.file,
            "row": row.line,
        },
    }
