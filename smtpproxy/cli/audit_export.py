"""`smtpproxy audit export`: decisions for other programs, and the filters that select them."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from smtpproxy.cli.journals import COPIES, check_app, check_stream, journals
from smtpproxy.cli.options import ExistingFolder, Moment, Options, RecordedAddress, command, option
from smtpproxy.events import Decided, JudgedRecipient, picked
from smtpproxy.evidence.gather import record_object
from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import Outcome, Record, read
from smtpproxy.store.exchange.tables import guarded
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.journals import IndexQuery


class Filters(Options, frozen=True):
    """Which decisions."""

    recipient: RecordedAddress | None = option("Only decisions about this recipient.")
    stream: str | None = option("Only decisions on this stream.", metavar="NAME")
    verdict: Action | None = option("Only decisions with this verdict.")
    reason: Reason | None = option(
        "Only decisions with this reason, for a recipient or for the message.", metavar="REASON"
    )
    app: str | None = option(
        "Only mail from this application: LISTENER, LISTENER/LOGIN or LISTENER/IP.", metavar="APP"
    )
    message_id: str | None = option("Only messages with this Message-ID.", metavar="MESSAGE-ID")
    since: Moment | None = option("Only decisions from TIME on.")
    until: Moment | None = option("Only decisions before TIME.")

    @property
    def given(self) -> dict[str, Any]:
        return picked(self, *Filters.__struct_fields__)

    @property
    def wanted(self) -> IndexQuery:
        """The same filters for the index, which knows neither apps nor Message-IDs."""
        return IndexQuery(
            recipients=() if self.recipient is None else (self.recipient,),
            **picked(self, "stream", "verdict", "reason", "since", "until"),
        )

    def check(self, settings: Settings, shipped: Path | None) -> None:
        """End the command if a name is neither in the configuration nor on record."""
        check_stream(settings, shipped, self.stream)
        check_app(settings, shipped, self.app)

    def read(self, folder: Path) -> Iterator[Record]:
        """Yield the decisions of one worker after another."""
        return read(folder, **self.given)


class ExportOptions(Filters, frozen=True):
    """Which decisions, and in what form."""

    export_format: Literal["ndjson", "csv"] = option(
        "One JSON object a decision, or one CSV row a recipient.", name="--format", default="ndjson"
    )


@command("export")
def export(
    settings: Settings,
    output: BinaryIO,
    options: ExportOptions,
    shipped: ExistingFolder | None = COPIES,
) -> None:
    """Write decisions with everything they were based on, one worker after another.

    Handles any number of decisions, even while the relay runs. Decisions of other relays are
    written only with --from.
    """
    logs = journals(settings, shipped)
    options.check(settings, shipped)
    records = (record for log in logs for record in options.read(log.folder))
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


class _Row(msgspec.Struct, frozen=True):
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
        cells = [of(row) for of in _CSV.values()]
        yield ["" if cell is None else guarded(str(cell)) for cell in cells]
