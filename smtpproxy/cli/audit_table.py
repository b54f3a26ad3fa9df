"""Decisions as a list for people, in a terminal of any width."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.table import Table

from smtpproxy.cli.printer import rich_console
from smtpproxy.policy.model import Action, Verdict
from smtpproxy.sinks.audit.reader import Record
from smtpproxy.terminal import printable

SHORTEST_SHOWN = 12  # of an id: its time, and enough to tell those of one millisecond apart
_HEADINGS = ("time", "id", "stream", "recipient", "verdict", "basis or reason", "upstream")
_GAP = 2


def print_decisions(records: Sequence[Record]) -> None:
    """Print them as a table, its ids shortened where it would not fit, else two lines for each.

    What was decided, and why, is never cut.
    """
    if not records:
        return
    short = _shortened([record.decided.id for record in records])
    full = [row for record in records for row in _rows(record, record.decided.id)]
    shortened = [row for record in records for row in _rows(record, short[record.decided.id])]
    for rows in (full, shortened):
        if _width(rows) <= rich_console().width:
            _print_table(rows)
            return
    for time, id, stream, recipient, verdict, why, upstream in shortened:
        decided = " ".join(filter(None, (verdict, why)))
        answered = f"  upstream {upstream}" if upstream else ""
        rich_console().print(f"{time}  {id}  {decided}{answered}", soft_wrap=True)
        rich_console().print(f"    {stream}  {recipient}", soft_wrap=True)


def why(verdict: Verdict) -> str:
    if verdict.action is Action.ALLOW:
        return str(verdict.basis or "")
    return str(verdict.reason)


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    rich_console().print(table)


def _width(rows: Iterable[Sequence[str]]) -> int:
    columns = zip(_HEADINGS, *rows, strict=True)
    return sum(max(map(cell_len, column)) + _GAP for column in columns)


def _shortened(ids: Iterable[str]) -> dict[str, str]:
    """Return each id's shortest beginning that no other here has."""
    ordered = sorted(set(ids))
    short: dict[str, str] = {}
    before = ""
    for id, after in zip_longest(ordered, ordered[1:], fillvalue=""):
        needed = 1 + max(_common(before, id), _common(id, after))
        short[id] = id[: max(needed, SHORTEST_SHOWN)]
        before = id
    return short


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _rows(record: Record, id: str) -> Iterator[tuple[str, ...]]:
    decided = record.decided
    for address, verdict in _verdicts(record):
        passed = verdict.action is Action.ALLOW or decided.observed
        yield (
            f"{decided.at:%Y-%m-%d %H:%M:%S}",
            id,
            decided.decision.stream.name,
            printable(address),
            f"{verdict.action} (observed)" if decided.observed else str(verdict.action),
            why(verdict),
            _upstream(record) if passed else "",
        )


def _verdicts(record: Record) -> Iterator[tuple[str, Verdict]]:
    """What became of each recipient: a message that was refused has its reason at each."""
    message = record.decided.decision.message
    for entry in record.decided.recipients:
        refused = message is not None and message.action is not Action.ALLOW
        of_message = refused and entry.verdict.action is Action.ALLOW
        yield entry.address, message if message and of_message else entry.verdict


def _upstream(record: Record) -> str:
    if not record.decided.relayed:
        return ""
    return "unknown" if record.outcome is None else str(record.outcome.code)
