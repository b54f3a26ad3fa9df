"""`smtpproxy audit export`: the record for whoever works on it elsewhere."""

import csv
import io
from datetime import datetime
from typing import BinaryIO

import click
import msgspec

from smtpproxy.cli.audit_record import CSV_COLUMNS, as_rows
from smtpproxy.cli.common import audit_folder, config_option, moment
from smtpproxy.cli.stores import canonical_address, output_option
from smtpproxy.evidence.gather import record_object
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import read


@click.command("export")
@click.option("--since", type=moment, metavar="TIME", help="Only from that moment on.")
@click.option("--until", type=moment, metavar="TIME", help="Only before that moment.")
@click.option("--stream", metavar="NAME", help="Only decisions on this stream.")
@click.option(
    "--recipient",
    type=canonical_address,
    metavar="ADDRESS",
    help="Only decisions about this recipient.",
)
@click.option(
    "--format",
    "export_format",
    type=click.Choice(["ndjson", "csv"]),
    default="ndjson",
    show_default=True,
    help="One JSON object a decision, or one CSV row a recipient.",
)
@output_option
@config_option
def export(
    settings: Settings,
    output: BinaryIO,
    since: datetime | None,
    until: datetime | None,
    stream: str | None,
    recipient: str | None,
    export_format: str,
) -> None:
    """Write decisions with all that they were based on, one worker's after the other.

    Works on any number of decisions, also while the relay runs.
    """
    folder = audit_folder(settings)
    records = read(folder, since=since, until=until, recipient=recipient, stream=stream)
    if export_format == "ndjson":
        encode = msgspec.json.Encoder().encode
        for record in records:
            output.write(encode(record_object(record)) + b"\n")
        return
    text = io.TextIOWrapper(output, "utf-8", "backslashreplace", newline="", write_through=True)
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    for record in records:
        rows.writerows(as_rows(record))
    text.detach()
