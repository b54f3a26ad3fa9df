"""`--anchors FILE`: anchors that were kept where nobody can change them."""

import json
import re
from pathlib import Path

import click

from smtpproxy.cli.common import fail
from smtpproxy.sinks.audit.chain import Head

_HASH = re.compile(r"[0-9a-f]{64}")

anchors_option = click.option(
    "--anchors",
    "kept",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Anchors that were kept elsewhere: lines of the log, or of `audit anchor --json`.",
)


def read_kept(path: Path | None) -> list[Head]:
    """Read the anchors of a log or of `audit anchor --json`; other lines are skipped."""
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
            if isinstance(entry, dict) and "heads" in entry:
                n, hash = entry.get("n"), entry.get("hash")
                if isinstance(n, int) and isinstance(hash, str) and _HASH.fullmatch(hash):
                    found.append(Head(n, hash))
    if not found:
        fail(f"{path}: no anchor in it; expected lines of the log or of audit anchor --json", 2)
    return found
