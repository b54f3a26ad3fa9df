"""`smtpproxy audit show` and `export`: the record of what was decided."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from heapq import nlargest
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from smtpproxy.cli.audit_verify import anchor, replay_command, verify
from smtpproxy.cli.options import (
    anchors_option,
    audit_folder,
    canonical_address,
    choice,
    config_option,
    moment,
    option,
    options,
    output_option,
    read_kept,
)
from smtpproxy.cli.printer import Aside, Column, Fields, Part, Result, Table, shows_result
from smtpproxy.events import Decided, JudgedRecipient
from smtpproxy.evidence.gather import record_object
from smtpproxy.policy.model import NO_FACTS, Action, Reason, RecipientFacts, Verdict, collections
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import Anchor
from smtpproxy.sinks.audit.chosen import verdicts
from smtpproxy.sinks.audit.reader import Outcome, Record, find, read
from smtpproxy.sinks.audit.verify import State, is_anchored, seal
from smtpproxy.store.exchange.times import written_time
from smtpproxy.terminal import counted, printable

_PROOFS = {
    State.KEPT: "sealed by an anchor kept elsewhere",
    State.LOCAL: "sealed by an anchor on this machine",
    State.UNPROVEN: "UNPROVEN: it comes after the last anchor",
    State.BROKEN: "NOT AS IT WAS WRITTEN: see smtpproxy audit verify",
}


_COLUMNS = [
    Column("time"),
    Column("id", is_id=True),
    Column("stream"),
    Column("recipient"),
    Column("verdict"),
    Column("basis or reason", clings=True),
    Column("upstream", label="upstream"),
]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@click.group("audit")
def audit() -> None:
    """The record of every decision: read it, prove it, judge it again."""


for subcommand in (verify, anchor, replay_command):
    audit.add_command(subcommand)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which decisions."""

    recipient: str | None = option("Only decisions about this recipient.", canonical_address)
    stream: str | None = option("Only decisions on this stream.", metavar="NAME")
    verdict: str | None = option("Only with this verdict.", choice(Action))
    reason: str | None = option(
        "Only with this reason, of a recipient or the message.", choice(Reason), metavar="REASON"
    )
    app: str | None = option(
        "Only mail of this application: LISTENER, LISTENER/LOGIN or LISTENER/IP.", metavar="APP"
    )
    message_id: str | None = option("Only messages of this Message-ID.", metavar="MESSAGE-ID")
    since: datetime | None = option("Only from TIME on.", moment)
    until: datetime | None = option("Only before TIME.", moment)

    @property
    def any(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(Filters))

    def read(self, folder: Path) -> Iterator[Record]:
        """Yield them, one worker's after the other."""
        return read(
            folder,
            since=self.since,
            until=self.until,
            recipient=self.recipient,
            stream=self.stream,
            verdict=Action(self.verdict) if self.verdict else None,
            reason=Reason(self.reason) if self.reason else None,
            app=self.app,
            message_id=self.message_id,
        )


@dataclass(frozen=True, slots=True)
class ShowOptions(Filters):
    """Which decisions, and how many."""

    limit: int = option("The newest N decisions.", click.IntRange(min=1), metavar="N", default=50)


@audit.command("show")
@click.argument("decision_id", required=False, metavar="[ID]")
@options(ShowOptions)
@anchors_option
@shows_result
@config_option
def show(
    settings: Settings, decision_id: str | None, options: ShowOptions, kept: Path | None
) -> Result:
    """Show one decision by its id, or the newest ones, oldest first.

    The id is in the SMTP reply and in the Received field; its first characters are enough
    where no other decision has them. `smtpproxy explain --id ID`
    shows step by step how a decision came about. Exits with 1 when no decision has that id.
    What no anchor seals yet is called unproven.
    """
    folder = audit_folder(settings)
    if decision_id is not None:
        if options.any:
            raise click.UsageError("an ID goes without filters")
        return _one(folder, decision_id, kept)
    if kept is not None:
        raise click.UsageError("--anchors goes with an ID")
    limit = options.limit
    newest = nlargest(limit + 1, options.read(folder), key=lambda record: record.decided.at)
    records, more = newest[:limit][::-1], len(newest) > limit
    last = anchors.newest(folder)
    states = [_state(record, last) for record in records]

    def text() -> Iterator[Part]:
        if not records:
            yield Aside("No decision on record matches.")
            return
        yield Table(_COLUMNS, [row for record in records for row in _rows(record)])
        if unproven := states.count(State.UNPROVEN):
            decisions = counted(unproven, "decision is", "decisions are")
            yield Aside(f"{decisions} after the last anchor: unproven.")
        if more:
            yield Aside(f"There are older ones than these {limit}: see --limit.")

    return Result(_objects(records, states), text())


def _one(folder: Path, decision_id: str, kept: Path | None) -> Result:
    try:
        records = find(folder, decision_id)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'ID'") from error
    states = [seal(folder, [record], read_kept(kept)).state for record in records]

    def text() -> Iterator[Part]:
        for record, state in zip(records, states, strict=True):
            yield Fields(_fields(record, state))
            yield ""

    missing = "" if records else f"no decision {printable(decision_id)} is on record"
    return Result(_objects(records, states), text(), error=missing)


def _objects(records: Sequence[Record], states: Sequence[State]) -> list[dict[str, object]]:
    return [record_object(one, state) for one, state in zip(records, states, strict=True)]


def _state(record: Record, newest: Anchor | None) -> State:
    places = [record.place, None if record.outcome is None else record.outcome.place]
    anchored = all(place is None or is_anchored(newest, place) for place in places)
    return State.LOCAL if anchored else State.UNPROVEN


def _fields(record: Record, state: State) -> Iterator[tuple[str, str | None]]:
    decided, client = record.decided, record.decided.client
    features, message = decided.features, decided.decision.message
    yield from {
        "id": decided.id,
        "time": decided.at.isoformat(timespec="milliseconds"),
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
        "mode": "observed: it passed whatever was decided" if decided.observed else None,
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
    return record.outcome.reply or f"{record.outcome.code}, its text is erased"


def _known(facts: RecipientFacts) -> str:
    """What the decision was based on, in a line; --json and `explain --id` have it all."""
    parts = [
        f"suppressed: {s.origin}, {s.scope}, since {s.since:%Y-%m-%d}" for s in facts.suppressions
    ]
    contact = facts.contact
    if contact is None:
        parts.append("no contact")
    else:
        who = f"{contact.audience}, "
        for way in collections(contact):
            collected = f", collected {way.collected_at:%Y-%m-%d}" if way.collected_at else ""
            parts.append(f"{who}source {way.source or 'unknown'}{collected}{_by(way.brand)}")
            who = "also "
        parts += [
            f"{act.purpose} {'withdrawn' if act.withdrawal else 'agreed to'}"
            f" {act.at:%Y-%m-%d}{_by(act.brand)}"
            for act in contact.acts
        ]
        parts += [f"bought {p.product} {p.at:%Y-%m-%d}{_by(p.brand)}" for p in contact.purchases]
    return "; ".join(parts)


def _by(brand: str | None) -> str:
    return f" (brand {brand})" if brand else ""


def _rows(record: Record) -> Iterator[tuple[str, ...]]:
    decided = record.decided
    for entry, verdict in zip(decided.recipients, verdicts(decided), strict=True):
        passed = verdict.action is Action.ALLOW or decided.observed
        yield (
            f"{decided.at:%Y-%m-%d %H:%M:%S}",
            decided.id,
            decided.decision.stream.name,
            entry.address,
            f"{verdict.action} (observed)" if decided.observed else str(verdict.action),
            _why(verdict),
            _upstream_code(record) if passed else "",
        )


def _upstream_code(record: Record) -> str:
    if not record.decided.relayed:
        return ""
    return "unknown" if record.outcome is None else str(record.outcome.code)


@dataclass(frozen=True, slots=True)
class ExportOptions(Filters):
    """Which decisions, and in what form."""

    export_format: str = option(
        "One JSON object a decision, or one CSV row a recipient.",
        choice(["ndjson", "csv"]), name="--format", default="ndjson",
    )  # fmt: skip


@audit.command("export")
@options(ExportOptions)
@output_option
@config_option
def export(settings: Settings, output: BinaryIO, options: ExportOptions) -> None:
    """Write decisions with all that they were based on, one worker's after the other.

    Works on any number of decisions, also while the relay runs.
    """
    records = options.read(audit_folder(settings))
    if options.export_format == "ndjson":
        encode = msgspec.json.Encoder().encode
        for record in records:
            output.write(encode(record_object(record)) + b"\n")
        return
    text = io.TextIOWrapper(output, "utf-8", "backslashreplace", newline="", write_through=True)
    rows = csv.writer(text)
    rows.writerow(_CSV)
    for record in records:
        rows.writerows(as_rows(record))
    text.detach()


@dataclass(frozen=True, slots=True)
class _Row:
    """What a CSV row is about: one recipient of a decision."""

    record: Record
    index: int

    @property
    def decided(self) -> Decided:
        return self.record.decided

    @property
    def entry(self) -> JudgedRecipient:
        return self.record.decided.recipients[self.index]

    @property
    def message(self) -> Verdict | None:
        return self.record.decided.decision.message

    @property
    def outcome(self) -> Outcome | None:
        return self.record.outcome_of(self.index)


_CSV: Mapping[str, Callable[[_Row], object]] = {
    "id": lambda row: row.decided.id,
    "at": lambda row: written_time(row.decided.at),
    "stage": lambda row: row.decided.stage,
    "listener": lambda row: row.decided.client.listener,
    "stream": lambda row: row.decided.decision.stream.name,
    "brand": lambda row: row.decided.decision.stream.brand,
    "class": lambda row: row.decided.decision.stream.class_name,
    "purpose": lambda row: row.decided.decision.stream.purpose,
    "rulebook": lambda row: row.decided.decision.rulebook,
    "recipient": lambda row: row.entry.address,
    "verdict": lambda row: row.entry.verdict.action,
    "reason": lambda row: row.entry.verdict.reason,
    "basis": lambda row: row.entry.verdict.basis,
    "rule": lambda row: row.entry.verdict.rule,
    "detail": lambda row: row.entry.verdict.detail,
    "message_verdict": lambda row: row.message and row.message.action,
    "message_reason": lambda row: row.message and row.message.reason,
    "observed": lambda row: "yes" if row.decided.observed else "no",
    "relayed": lambda row: "yes" if row.decided.relayed else "no",
    "upstream_at": lambda row: row.outcome and written_time(row.outcome.at),
    "upstream_code": lambda row: row.outcome and row.outcome.code,
    "upstream_reply": lambda row: row.outcome and row.outcome.reply,
    "mail_from": lambda row: row.decided.reverse_path,
    "from": lambda row: row.decided.header_from,
    "subject": lambda row: row.decided.subject,
    "message_id": lambda row: row.decided.message_id,
    "size": lambda row: row.decided.size,
    "file": lambda row: row.record.place and row.record.place.file,
    "row": lambda row: row.record.place and row.record.place.n,
    "hash": lambda row: row.record.place and row.record.place.hash,
}


def as_rows(record: Record) -> Iterator[list[str]]:
    """Yield one row for each recipient, in the order of the columns."""
    for index in range(len(record.decided.recipients)):
        row = _Row(record, index)
        yield [_cell(of(row)) for of in _CSV.values()]


def _cell(value: object) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
