"""A record of the audit log as spreadsheets get it: a CSV row a recipient."""

from collections.abc import Iterator

from smtpproxy.sinks.audit.reader import Record
from smtpproxy.store.exchange.times import written_time

CSV_COLUMNS = (
    "id",
    "at",
    "stage",
    "listener",
    "stream",
    "class",
    "purpose",
    "rulebook",
    "recipient",
    "verdict",
    "reason",
    "basis",
    "rule",
    "detail",
    "message_verdict",
    "message_reason",
    "observed",
    "relayed",
    "upstream_at",
    "upstream_code",
    "upstream_reply",
    "mail_from",
    "from",
    "subject",
    "message_id",
    "size",
    "file",
    "row",
    "hash",
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_rows(record: Record) -> Iterator[list[str]]:
    """One row for each recipient, in the order of `CSV_COLUMNS`."""
    decided, place = record.decided, record.place
    decision, stream = decided.decision, decided.decision.stream
    for index, entry in enumerate(decided.recipients):
        outcome = record.outcome_of(index)
        verdict, message = entry.verdict, decision.message
        cells: list[object] = [
            decided.id,
            written_time(decided.at),
            decided.stage,
            decided.client.listener,
            stream.name,
            stream.stream_class,
            stream.purpose,
            decision.rulebook,
            entry.address,
            verdict.action,
            verdict.reason,
            verdict.basis,
            verdict.rule,
            verdict.detail,
            message and message.action,
            message and message.reason,
            "yes" if decided.observed else "no",
            "yes" if decided.relayed else "no",
            outcome and written_time(outcome.at),
            outcome and outcome.code,
            outcome and outcome.reply,
            decided.reverse_path,
            decided.header_from,
            decided.subject,
            decided.message_id,
            decided.size,
            place and place.file,
            place and place.n,
            place and place.hash,
        ]
        yield [_cell(cell) for cell in cells]


def _cell(value: object) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
