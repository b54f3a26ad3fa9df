"""What the demo prints."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smtpproxy.demo.send import Outcome

WIDE = 120  # columns of a terminal that has room for the replies in the table
NOT_SHOWN = ("_bucket", "_sum", "_count", "_created", "_cpu_seconds_total")
STYLES = {"allow": "green", "refuse": "red", "defer": "yellow"}


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """The table: to whom, stream, verdict, basis or reason, the reply."""
    wide = console.width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("to", "stream", "verdict", "basis or reason"):
        table.add_column(heading, no_wrap=True)
    if wide:
        table.add_column("the reply", overflow="fold")
    for outcome in outcomes:
        table.add_row(
            outcome.letter.to,
            outcome.letter.stream,
            Text(outcome.verdict, STYLES[outcome.verdict]),
            outcome.why,
            *([Text(outcome.reply)] if wide else []),
        )
    console.print(table)
    if not wide:
        console.print("The replies, in the same order:")
        for outcome in outcomes:
            console.print(Text(f"  {outcome.reply}"), soft_wrap=True)


def print_moved(console: Console, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """The counters and gauges of mail that changed; histograms are for Grafana."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="metrics that moved")
    table.title_justify = "left"
    table.add_column("metric", overflow="fold")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name in sorted(after):
        kind = name.partition("{")[0]
        if not kind.startswith("smtpproxy_") or kind.endswith(NOT_SHOWN):
            continue
        if after[name] != before.get(name, 0.0):
            table.add_row(Text(name), f"{before.get(name, 0.0):g}", f"{after[name]:g}")
    console.print(table)


def print_try_it(console: Console, port: int, web_port: int, config: Path, keep: bool) -> None:
    """How to send a message of one's own."""
    if keep:
        console.print(f"The relay goes on at 127.0.0.1:{port}. Send one of your own:")
    else:
        console.print("`make demo KEEP=1` leaves the relay running. Then send one of your own:")
    server = f"127.0.0.1:{port}"
    lines = [
        "# a receipt goes through; drop the stream header, and the strict rules of offers apply",
        f"swaks --server {server} --from news@shop.example --to karim@people.example"
        " --h-X-Mail-Stream receipts",
        f'python3 -c \'import smtplib; smtplib.SMTP("127.0.0.1", {port}).sendmail('
        '"news@shop.example", "paul@people.example",'
        ' "From: news@shop.example\\nX-Mail-Stream: receipts\\n\\nHello")\'',
        f"curl http://127.0.0.1:{web_port}/metrics",
    ]
    if keep:
        lines.append(f"{sys.argv[0]} audit show --config {config}")
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
