"""The demo from beginning to end."""

import re
import signal
import smtplib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smtpproxy.demo.letters import LETTERS, Letter, contacts, suppressions
from smtpproxy.demo.relay import CaptureMta, DemoError, DemoRelay
from smtpproxy.policy.model import Action
from smtpproxy.sinks.audit import reader as journal_reader

_REFUSED = re.compile(r"refused: (\w+)|: (temporary_failure)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter. `why` is the basis or the reason."""

    letter: Letter
    message_id: str
    code: int
    reply: str
    verdict: Action
    why: str


def send(port: int, letters: Sequence[Letter], now: datetime, audit: Path) -> list[Outcome]:
    """Send each letter as an app does, and tell the reply; the basis is the audit log's."""
    replies = []
    try:
        with smtplib.SMTP("127.0.0.1", port, "app.shop.example", timeout=10) as client:
            client.ehlo()
            for number, letter in enumerate(letters, 1):
                message_id = f"<{number}.demo@shop.example>"
                replies.append((letter, message_id, *_put(client, letter, message_id, now)))
    except (OSError, smtplib.SMTPException) as error:
        raise DemoError(f"sending over SMTP failed: {error}") from error
    bases = _bases(audit)
    return [
        Outcome(
            letter,
            message_id,
            code,
            reply,
            _verdict(code),
            bases.get(message_id, "?") if code < 400 else _reason(reply),
        )
        for letter, message_id, code, reply in replies
    ]


def _put(client: smtplib.SMTP, letter: Letter, message_id: str, now: datetime) -> tuple[int, str]:
    """One transaction; the reply that decided: the first that was not positive, or the last."""
    code, text = client.mail(letter.reverse_path)
    if code < 400:
        code, text = client.rcpt(letter.to)
    if code < 400:
        code, text = client.data(letter.message(message_id, now))
    if code >= 400:
        client.rset()
    return code, f"{code} {text.decode(errors='replace')}"


def _verdict(code: int) -> Action:
    if code < 400:
        return Action.ALLOW
    return Action.DEFER if code < 500 else Action.REFUSE


def _reason(reply: str) -> str:
    found = _REFUSED.search(reply)
    return next(filter(None, found.groups())) if found else "?"


def _bases(audit: Path) -> dict[str, str]:
    """Message-ID to the basis that is on record for its (only) recipient."""
    bases = {}
    for record in journal_reader.read(audit):
        decided = record.decided
        if decided.message_id is not None and decided.recipients:
            bases[decided.message_id] = str(decided.recipients[0].verdict.basis)
    return bases


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


def run(console: Console, *, keep: bool) -> None:
    """Run the whole demo; with `keep`, leave the relay running until Ctrl-C.

    Raises DemoError. All that it started or wrote is gone when it returns or raises.
    """
    ended = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="smtpproxy-demo-") as folder,
            CaptureMta() as mta,
            DemoRelay(Path(folder), mta.address) as relay,
        ):
            _show(console, relay, mta, Path(folder), keep)
            if keep:
                _stay(console, relay, mta)
    finally:
        signal.signal(signal.SIGTERM, ended)


def _show(console: Console, relay: DemoRelay, mta: CaptureMta, folder: Path, keep: bool) -> None:
    now = datetime.now(UTC)
    _import(relay, folder, now)
    relay.start()
    console.print(
        f"The relay listens on 127.0.0.1:{relay.smtp_port}, in front of an MTA on"
        f" {mta.address} that keeps what it is given.\n"
        f"Imported: {contacts(now).count(chr(10))} contacts and"
        f" {suppressions(now).count(chr(10)) - 1} suppressions, all invented."
    )
    before = relay.metrics()
    began = time.monotonic()
    outcomes = send(relay.smtp_port, LETTERS, now, relay.audit)
    seconds = time.monotonic() - began
    print_outcomes(console, outcomes)
    console.print(f"{len(outcomes)} messages in {seconds:.2f} s.")
    console.print(_compare(outcomes, mta))
    print_moved(console, before, relay.metrics())
    print_try_it(console, relay.smtp_port, relay.web_port, relay.config, keep)


def _import(relay: DemoRelay, folder: Path, now: datetime) -> None:
    people = folder / "contacts.ndjson"
    people.write_text(contacts(now))
    relay.command("contact", "import", str(people))
    refused = folder / "suppressions.csv"
    refused.write_text(suppressions(now))
    relay.command("suppress", "import", str(refused))


def _compare(outcomes: Sequence[Outcome], mta: CaptureMta) -> str:
    """Say that the MTA holds what was answered 250, nothing less and nothing more."""
    wrong = [f"{o.letter.to}: {o.why}" for o in outcomes if o.why != o.letter.expected]
    if wrong:
        raise DemoError(f"not judged as expected: {', '.join(wrong)}")
    answered = sorted((o.message_id, o.letter.to) for o in outcomes if o.code == 250)
    held = sorted((_message_id(m.content), *m.recipients) for m in mta.messages)
    if answered != held:
        raise DemoError(
            f"{len(answered)} messages were answered 250, but the MTA holds {len(held)}"
            " others: please report this"
        )
    return (
        f"The MTA behind the relay holds {len(held)} messages:"
        f" exactly the {len(answered)} that were answered 250."
    )


def _message_id(content: bytes) -> str:
    head = content.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        if line.startswith(b"Message-ID: "):
            return line.partition(b" ")[2].decode()
    return ""


def _stay(console: Console, relay: DemoRelay, mta: CaptureMta) -> None:
    """Until Ctrl-C: tell of every message that reaches the MTA."""
    told = len(mta.messages)
    try:
        console.print("Ctrl-C ends it.")
        while relay.alive:
            for message in mta.messages[told:]:
                console.print(f"The MTA got a message to {', '.join(message.recipients)}.")
                told += 1
            time.sleep(0.2)
    except KeyboardInterrupt:
        console.print()
        return
    raise DemoError("the relay ended by itself")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
