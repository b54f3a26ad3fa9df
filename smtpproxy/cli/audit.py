"""`smtpproxy audit show`: the recorded decisions."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from heapq import nlargest
from itertools import chain
from pathlib import Path

import click

from smtpproxy.cli import valid_parameter
from smtpproxy.cli.audit_export import Filters, export
from smtpproxy.cli.audit_ship import ship
from smtpproxy.cli.audit_verify import anchor, replay_command, verify
from smtpproxy.cli.journals import (
    ANCHORS,
    COPIES,
    Journal,
    elsewhere,
    find_records,
    indexed_object,
    journals,
    read_kept,
    record_place,
)
from smtpproxy.cli.options import ExistingFile, ExistingFolder, WholeNumber, command, option
from smtpproxy.cli.printer import Aside, Column, Fields, Part, Result, Table
from smtpproxy.evidence.gather import record_object
from smtpproxy.policy.model import NO_FACTS, Action, RecipientFacts, Verdict, collections
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import Anchor
from smtpproxy.sinks.audit.reader import Record, verdicts
from smtpproxy.sinks.audit.verify import State, is_anchored, seal
from smtpproxy.store.exchange.consent_columns import purpose_in_words
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.journals import IndexQuery, IndexRow
from smtpproxy.terminal import counted, printable

_PROOFS = {
    State.KEPT: "sealed by an anchor kept elsewhere",
    State.LOCAL: "sealed by an anchor on this machine",
    State.UNPROVEN: "UNPROVEN: it comes after the last anchor",
    State.BROKEN: "ALTERED: see smtpproxy audit verify",
}


_MOST_RECIPIENTS = 1_000
_Found = tuple[datetime, Record | IndexRow, State | None]
"""When, a record of this log or the index's row for one of another relay, and its proof."""
_COLUMNS = [
    Column("time"),
    Column("id", is_id=True),
    Column("stream"),
    Column("recipient"),
    Column("verdict"),
    Column("basis or reason", clings=True),
    Column("upstream", label="upstream"),
]


@click.group("audit")
def audit() -> None:
    """Read, verify and replay the record of every decision."""


for subcommand in (export, verify, anchor, ship, replay_command):
    audit.add_command(subcommand)


class ShowOptions(Filters, frozen=True):
    """Which decisions, and how many."""

    limit: WholeNumber = option("Show the newest N decisions.", metavar="N", default=50)


@command("show", audit)
def show(
    settings: Settings,
    id: str | None,
    options: ShowOptions,
    kept: ExistingFile | None = ANCHORS,
    shipped: ExistingFolder | None = COPIES,
) -> Result:
    """Show one decision by its id, or the newest ones, oldest first.

    The id is in the SMTP reply and in the Received field; its first characters are enough
    if no other decision begins with them. `smtpproxy explain --id ID` shows step by step how a
    decision came about. Exits with 1 when no decision has that id. A record that no anchor seals
    yet is called unproven.

    For decisions of other relays on the same PostgreSQL it shows what the index knows, and names
    the relay that has the record; with --from it shows the records that were shipped.
    """
    logs = journals(settings, shipped)
    if id is not None:
        if any(value is not None for value in options.given.values()):
            raise click.UsageError("an ID takes no filters")
        return _one(settings, logs, id, kept, indexed=shipped is None)
    if kept is not None:
        raise click.UsageError("--anchors needs an ID")
    options.check(settings, shipped)
    limit = options.limit
    newest_anchors = {log: anchors.newest(log.folder) for log in logs}
    of_others = () if shipped is not None else _elsewhere(settings, options)
    own: Iterator[_Found] = (
        (record.decided.at, record, _state(record, newest_anchors[log]))
        for log in logs
        for record in options.read(log.folder)
    )
    others: Iterator[_Found] = ((row.at, row, None) for row in of_others)
    found = nlargest(limit + 1, chain(own, others), key=lambda one: one[0])
    shown = found[:limit][::-1]
    data = [_object(record, state) for _, record, state in shown]
    return Result(data, _newest(shown, older=len(found) > limit))


def _newest(shown: Sequence[_Found], *, older: bool) -> Iterator[Part]:
    if not shown:
        yield Aside("No decision on record matches.")
        return
    yield Table(_COLUMNS, [row for _, record, _ in shown for row in _rows(record)])
    if any(isinstance(record, IndexRow) for _, record, _ in shown):
        yield Aside("Some records are at other relays: see audit show ID, or --from.")
    if unproven := sum(state is State.UNPROVEN for _, _, state in shown):
        decisions = counted(unproven, "decision is", "decisions are")
        yield Aside(f"{decisions} after the last anchor: unproven.")
    if older:
        yield Aside(f"There are more, older than these {len(shown)}: see --limit.")


def _elsewhere(settings: Settings, options: ShowOptions) -> Sequence[IndexRow]:
    """Return the index's rows for other relays; it knows neither apps nor Message-IDs."""
    if options.app is not None or options.message_id is not None:
        return ()
    return elsewhere(settings, options.wanted, options.limit + 1)


def _object(record: Record | IndexRow, state: State | None) -> Mapping[str, object]:
    return indexed_object(record) if isinstance(record, IndexRow) else record_object(record, state)


def _one(
    settings: Settings,
    logs: Sequence[Journal],
    decision_id: str,
    kept: Path | None,
    *,
    indexed: bool,
) -> Result:
    with valid_parameter("'ID'"):
        records = find_records(logs, decision_id)
    if not records and indexed:
        others = elsewhere(settings, IndexQuery(id=decision_id.upper()), _MOST_RECIPIENTS)
        if others:
            return _of_another_relay(others)
    states = [seal(log.folder, [record], read_kept(kept)).state for log, record in records]

    def text() -> Iterator[Part]:
        for (log, record), state in zip(records, states, strict=True):
            yield Fields(_fields(record, state, log.relay))
            yield ""

    missing = "" if records else f"no decision {printable(decision_id)} is on record"
    data = [
        record_object(record, state) for (_, record), state in zip(records, states, strict=True)
    ]
    return Result(data, text(), error=missing)


def _of_another_relay(rows: Sequence[IndexRow]) -> Result:
    """Show what the index has, and say where the record is."""
    shown = rows[::-1]
    places = dict.fromkeys(record_place(one) for one in rows)
    text = [Table(_COLUMNS, [row for one in shown for row in _rows(one)])]
    error = f"the record is {'; and '.join(places)}: run this there, or see --from"
    return Result([indexed_object(one) for one in shown], text, error=error)


def _state(record: Record, newest: Anchor | None) -> State:
    places = [record.place, None if record.outcome is None else record.outcome.place]
    anchored = all(place is None or is_anchored(newest, place) for place in places)
    return State.LOCAL if anchored else State.UNPROVEN


def _fields(record: Record, state: State, relay: str) -> Iterator[tuple[str, str | None]]:
    decided, client = record.decided, record.decided.client
    features, message = decided.features, decided.decision.message
    yield from {
        "id": decided.id,
        "relay": relay or None,
        "time": written_time(decided.at),
        "stage": "RCPT" if decided.stage == "rcpt" else "end of data",
        "client": f"{client.peer}, HELO {client.helo}, listener {client.listener}",
        "login": client.login or None,
        "queue id": client.queue_id or None,
        "mail from": f"<{decided.reverse_path}>",
        "message id": decided.message_id or None,
        "subject": decided.subject or None,
        "from": decided.header_from or None,
        "source announced": (features.source_statement if features else None) or None,
        "size": str(decided.size) if decided.size else None,
        "stream": f"{decided.decision.stream.name}, rulebook {decided.decision.rulebook}",
        "mode": "observed: it passed anyway" if decided.observed else None,
        "message": _sentence(message) if message else None,
        "upstream": _upstream_reply(record),
        "proof": _PROOFS[state],
    }.items()
    for index, entry in enumerate(decided.recipients):
        yield "recipient", f"{entry.address}: {_sentence(entry.verdict)}"
        own = record.outcome_of(index) if record.outcome and record.outcome.each else None
        if own is not None:
            yield "", f"upstream: {own.reply}"
        yield "", _known(decided.facts.get(entry.canonical, NO_FACTS))


def _sentence(verdict: Verdict) -> str:
    words = f"{verdict.action}, {_why(verdict)}" if _why(verdict) else str(verdict.action)
    return f"{words} ({verdict.detail})" if verdict.detail else words


def _why(verdict: Verdict) -> str:
    if verdict.action is Action.ALLOW:
        return str(verdict.basis or "")
    return str(verdict.reason)


def _upstream_reply(record: Record) -> str | None:
    if not record.decided.relayed:
        return None
    if record.outcome is None:
        return "unknown"
    return record.outcome.reply or f"{record.outcome.code}, its text was erased"


def _known(facts: RecipientFacts) -> str:
    """Say in a line what the decision was based on; --json and `explain --id` have all of it."""
    parts = [
        f"suppressed: {s.origin}, {s.scope}, since {s.since:%Y-%m-%d}" for s in facts.suppressions
    ]
    contact = facts.contact
    if contact is None:
        parts.append("no contact")
    else:
        also = ""
        for way in collections(contact):
            collected = f", collected {way.collected_at:%Y-%m-%d}" if way.collected_at else ""
            source = f"source {way.source or 'unknown'}{collected}{_by(way.brand)}"
            parts.append(f"{also}{way.audience}, {source}")
            also = "also "
        parts += [
            f"{purpose_in_words(act.purpose)} {'withdrawn' if act.withdrawal else 'agreed to'}"
            f" {act.at:%Y-%m-%d}{_by(act.brand)}"
            for act in contact.acts
        ]
        parts += [f"bought {p.product} {p.at:%Y-%m-%d}{_by(p.brand)}" for p in contact.purchases]
    return "; ".join(parts)


def _by(brand: str | None) -> str:
    return f" (brand {brand})" if brand else ""


def _rows(record: Record | IndexRow) -> Iterator[tuple[str, ...]]:
    if isinstance(record, IndexRow):
        why = "" if record.verdict is Action.ALLOW else str(record.reason)
        action = f"{record.verdict} (observed)" if record.observed else str(record.verdict)
        at, where = f"{record.at:%Y-%m-%d %H:%M:%S}", f"at {record.host}"
        yield at, record.id, record.stream, where, action, why, ""
        return
    decided = record.decided
    for entry, verdict in zip(decided.recipients, verdicts(decided), strict=True):
        passed = verdict.action is Action.ALLOW or decided.observed
        why = _why(verdict)  # what the app was told; then why they would get nothing anyway
        if entry.verdict.action is not Action.ALLOW and entry.verdict.reason != verdict.reason:
            why = f"{why}, {entry.verdict.reason}"
        yield (
            f"{decided.at:%Y-%m-%d %H:%M:%S}",
            decided.id,
            decided.decision.stream.name,
            entry.address,
            f"{verdict.action} (observed)" if decided.observed else str(verdict.action),
            why,
            _upstream_code(record) if passed else "",
        )


def _upstream_code(record: Record) -> str:
    if not record.decided.relayed:
        return ""
    return "unknown" if record.outcome is None else str(record.outcome.code)
