"""`smtpproxy audit`: the record of what was decided."""

from datetime import datetime
from heapq import nlargest
from pathlib import Path

import click
from rich.table import Table

from smtpproxy.cli.audit_export import export
from smtpproxy.cli.audit_replay import replay_command
from smtpproxy.cli.audit_table import print_decisions, why
from smtpproxy.cli.audit_verify import anchor, verify
from smtpproxy.cli.common import audit_folder, config_option, fail, moment
from smtpproxy.cli.kept_anchors import anchors_option, read_kept
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.cli.stores import canonical_address
from smtpproxy.evidence.gather import record_object
from smtpproxy.policy.model import NO_FACTS, RecipientFacts, Verdict
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import Anchor
from smtpproxy.sinks.audit.reader import Record, find, read
from smtpproxy.sinks.audit.verify import State, is_anchored, seal
from smtpproxy.terminal import printable

_PROOFS = {
    State.KEPT: "sealed by an anchor that was kept elsewhere",
    State.LOCAL: "sealed by an anchor on this machine",
    State.UNPROVEN: "UNPROVEN: it is behind the last anchor",
    State.BROKEN: "NOT AS IT WAS WRITTEN: see smtpproxy audit verify",
}


@click.group(short_help="Read the record of decisions, prove it, judge it again.")
def command() -> None:
    """The record of every decision: read it, prove it, judge it again."""


for subcommand in (export, verify, anchor, replay_command):
    command.add_command(subcommand)


@command.command()
@click.argument("decision_id", required=False, metavar="[ID]")
@click.option(
    "--recipient",
    type=canonical_address,
    metavar="ADDRESS",
    help="Only decisions about this recipient.",
)
@click.option("--stream", metavar="NAME", help="Only decisions on this stream.")
@click.option("--since", type=moment, metavar="TIME", help="Only from that moment on.")
@click.option("--until", type=moment, metavar="TIME", help="Only before that moment.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="The newest N decisions.",
)
@anchors_option
@json_option
@config_option
def show(
    settings: Settings,
    decision_id: str | None,
    recipient: str | None,
    stream: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    kept: Path | None,
    as_json: bool,
) -> int:
    """Show one decision by its id, or the newest ones, oldest first.

    The id is in the SMTP reply and in the Received field; its first characters do, where no other
    decision has them. `smtpproxy explain --id ID`
    shows step by step how a decision came about. Exits with 1 when there is none of that id.
    What no anchor seals yet is called unproven.
    """
    folder = audit_folder(settings)
    if decision_id is not None:
        if recipient or stream or since or until:
            raise click.UsageError("an ID goes without filters")
        try:
            records = find(folder, decision_id)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'ID'") from error
        more = False
        states = [seal(folder, [record], read_kept(kept)).state for record in records]
    else:
        if kept is not None:
            raise click.UsageError("--anchors goes with an ID")
        found = read(folder, since=since, until=until, recipient=recipient, stream=stream)
        newest = nlargest(limit + 1, found, key=lambda record: record.decided.at)
        records, more = newest[:limit][::-1], len(newest) > limit
        anchor = anchors.newest(folder)
        states = [_state(record, anchor) for record in records]
    if as_json:
        pairs = zip(records, states, strict=True)
        print_json([record_object(record, state) for record, state in pairs])
    elif decision_id is not None:
        for record, state in zip(records, states, strict=True):
            _print_record(record, state)
    else:
        print_decisions(records)
        _print_unproven(states.count(State.UNPROVEN))
        if more:
            click.echo(f"There are older ones than these {limit}: see --limit.", err=True)
    if records:
        return 0
    if decision_id is not None:
        fail(f"no decision {printable(decision_id)} is on record")
    click.echo("No decision on record matches.", err=True)
    return 0


def _state(record: Record, newest: Anchor | None) -> State:
    places = [record.place, None if record.outcome is None else record.outcome.place]
    anchored = all(place is None or is_anchored(newest, place) for place in places)
    return State.LOCAL if anchored else State.UNPROVEN


def _print_unproven(count: int) -> None:
    if count:
        are = "decision is" if count == 1 else "decisions are"
        click.echo(f"{count} {are} behind the last anchor: unproven.", err=True)


def _print_record(record: Record, state: State) -> None:
    decided, client = record.decided, record.decided.client
    table = Table.grid(padding=(0, 2))
    rows = {
        "id": decided.id,
        "time": decided.at.isoformat(timespec="milliseconds"),
        "stage": "RCPT" if decided.stage == "rcpt" else "end of data",
        "client": f"{client.peer}, HELO {client.helo}, listener {client.listener}",
        "login": client.login,
        "queue id": client.queue_id,
        "mail from": f"<{decided.reverse_path}>",
        "message id": decided.message_id,
        "subject": decided.subject,
        "from": decided.header_from,
        "source announced": decided.features.source_statement if decided.features else None,
        "size": str(decided.size) if decided.size else None,
        "stream": f"{decided.decision.stream.name}, rulebook {decided.decision.rulebook}",
        "mode": "observed: it passed whatever was decided" if decided.observed else None,
        "message": _sentence(decided.decision.message),
        "upstream": _upstream(record),
        "proof": _PROOFS[state],
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, printable(value))
    for index, entry in enumerate(decided.recipients):
        table.add_row("recipient", printable(f"{entry.address}: {_sentence(entry.verdict)}"))
        own = record.outcome_of(index) if record.outcome and record.outcome.each else None
        if own is not None:
            table.add_row("", printable(f"upstream: {own.reply}"))
        table.add_row("", _known(decided.facts.get(entry.canonical, NO_FACTS)))
    rich_console().print(table)
    rich_console().print()


def _sentence(verdict: Verdict | None) -> str | None:
    if verdict is None:
        return None
    words = f"{verdict.action}, {why(verdict)}" if why(verdict) else str(verdict.action)
    return f"{words} ({verdict.detail})" if verdict.detail else words


def _upstream(record: Record) -> str:
    if not record.decided.relayed:
        return ""
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
        collected = f", collected {contact.collected_at:%Y-%m-%d}" if contact.collected_at else ""
        parts.append(f"{contact.audience}, source {contact.source or 'unknown'}{collected}")
        parts += [
            f"{act.purpose} {'withdrawn' if act.withdrawal else 'agreed to'} {act.at:%Y-%m-%d}"
            for act in contact.acts
        ]
        parts += [f"bought {p.product} {p.at:%Y-%m-%d}" for p in contact.purchases]
    return printable("; ".join(parts))
