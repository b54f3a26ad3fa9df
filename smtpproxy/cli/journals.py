"""Which audit logs a command reads: that of this machine, or copies that were shipped; and what the
index of a store knows of the decisions of other relays."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from smtpproxy.cli import fail
from smtpproxy.cli.options import audit_folder
from smtpproxy.settings import Settings
from smtpproxy.shipping.files import RELAY_FILE
from smtpproxy.sinks.audit.chain import UNREADABLE
from smtpproxy.sinks.audit.files import ANCHORS, segments
from smtpproxy.sinks.audit.reader import Record, find
from smtpproxy.store import open_journals
from smtpproxy.store.journals import IndexQuery, IndexRow
from smtpproxy.store.relays import known_relay_id

from_option = click.option(
    "--from",
    "shipped",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Read what `audit ship` has put into DIR: the audit logs of one relay, or of several.",
)


_LONGEST = 4096  # octets of what says whose a copy is


class _Whose(msgspec.Struct, frozen=True):
    host: str


@dataclass(frozen=True, slots=True)
class Journal:
    """An audit log; `relay` is its host name, where it is a copy."""

    folder: Path
    relay: str = ""


def journals(settings: Settings, shipped: Path | None) -> list[Journal]:
    """Return the audit log of this machine, or those in a folder. Ends the command without any."""
    if shipped is None:
        return [Journal(audit_folder(settings))]
    folders = [shipped, *sorted(path for path in shipped.iterdir() if path.is_dir())]
    found = [Journal(folder, _relay(folder)) for folder in folders if _is_journal(folder)]
    if not found:
        fail(f"--from: {shipped}: no audit log in it; expected what `smtpproxy audit ship` made", 2)
    return found


def _is_journal(folder: Path) -> bool:
    return (folder / ANCHORS).exists() or bool(segments(folder))


def _relay(folder: Path) -> str:
    with suppress(OSError, *UNREADABLE), (folder / RELAY_FILE).open("rb") as file:
        return msgspec.json.decode(file.read(_LONGEST), type=_Whose).host
    return folder.name


def found(all_of_them: Sequence[Journal], id: str) -> list[tuple[Journal, Record]]:
    """Return every record of that id, or of the one that begins so. Raises ValueError."""
    records = [(one, record) for one in all_of_them for record in find(one.folder, id)]
    if len({record.decided.id for _, record in records}) > 1:
        raise ValueError(f"several decisions begin with {id}")
    return records


def elsewhere(settings: Settings, wanted: IndexQuery, limit: int) -> Sequence[IndexRow]:
    """Return what the index has of other relays, newest first; nothing where there is no index.

    Raises StoreUnavailable, OSError.
    """

    index = open_journals(settings.store)
    if index is None:
        return ()

    async def ask() -> Sequence[IndexRow]:
        try:
            own = known_relay_id(settings.server.state_dir) or ""
            return await index.find(wanted, limit, but=own)
        finally:
            index.close()

    return asyncio.run(ask())


def where(row: IndexRow) -> str:
    """Say where a record is."""
    return f"in the audit log of {row.host} (relay {row.relay}), row {row.line} of {row.file}"


def indexed_object(row: IndexRow) -> Mapping[str, Any]:
    """Return all that is known here of a decision of another relay."""
    return {
        "id": row.id,
        "at": row.at,
        "stream": row.stream,
        "verdict": row.verdict,
        "reason": row.reason,
        "observed": row.observed,
        "elsewhere": {
            "relay": row.host,
            "relay_id": row.relay,
            "file": row.file,
            "row": row.line,
        },
    }
