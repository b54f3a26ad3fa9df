"""The demo from beginning to end."""

import re
import signal
import smtplib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from smtpproxy.cli.printer import VERDICT_STYLES, Column, Styled, Table, print_text
from smtpproxy.demo.letters import LETTERS, Letter, contacts, suppressions
from smtpproxy.demo.relay import CaptureMta, DemoError, DemoRelay
from smtpproxy.policy.model import Action
from smtpproxy.sinks.audit import reader as journal_reader

_REFUSED = re.compile(r"refused: (\w+)|: (temporary_failure)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one letter. `why` is the basis or the reason."""

    letter: Letter
    message_id: str
    code: int
    reply: str
    verdict: Action
    why: str


def send(port: int, letters: Sequence[Letter], now: datetime, audit: Path) -> list[Outcome]:
    """Send each letter as an application does; bases come from the audit log."""
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
    """Run a transaction; return the deciding reply: the first negative one, or the last."""
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
    """Return the recorded basis for the only recipient of each Message-ID."""
    bases = {}
    for record in journal_reader.read(audit):
        decided = record.decided
        if decided.message_id is not None and decided.recipients:
            bases[decided.message_id] = str(decided.recipients[0].verdict.basis)
    return bases


_MOVED_ELSEWHERE = ("_bucket", "_sum", "_count", "_created", "_cpu_seconds_total")
_OUTCOME = (
    *(Column(heading) for heading in ("to", "stream", "verdict", "basis or reason")),
    Column("the reply", prose=True),
)
_METRIC = (
    Column("metrics that changed"),
    Column("before", right=True),
    Column("after", right=True),
)


def _outcomes(outcomes: Sequence[Outcome]) -> Table:
    """Return the outcomes as a table."""
    return Table(
        _OUTCOME,
        [
            (
                outcome.letter.to,
                outcome.letter.stream,
                Styled(outcome.verdict, VERDICT_STYLES[outcome.verdict]),
                outcome.why,
                outcome.reply,
            )
            for outcome in outcomes
        ],
    )


def _moved(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    """Return the counters and gauges that changed, without histograms."""
    names = [
        name
        for name in sorted(after)
        if name.startswith("smtpproxy_")
        and not name.partition("{")[0].endswith(_MOVED_ELSEWHERE)
        and after[name] != before.get(name, 0.0)
    ]
    return Table(
        _METRIC, [(name, f"{before.get(name, 0.0):g}", f"{after[name]:g}") for name in names]
    )


def _try_it(relay: DemoRelay, keep: bool) -> Iterator[str]:
    """Yield how to send one's own message."""
    server = f"127.0.0.1:{relay.smtp_port}"
    if keep:
        yield f"The relay keeps running at {server}. Send your own message:"
    else:
        yield "`make demo KEEP=1` leaves the relay running. Then send your own message:"
    yield "  # a receipt goes through; without the stream header the strict rules of offers apply"
    yield (
        f"  swaks --server {server} --from news@shop.example --to karim@people.example"
        " --h-X-Mail-Stream receipts"
    )
    yield (
        f'  python3 -c \'import smtplib; smtplib.SMTP("127.0.0.1", {relay.smtp_port}).sendmail('
        '"news@shop.example", "paul@people.example",'
        ' "From: news@shop.example\\nX-Mail-Stream: receipts\\n\\nHello")\''
    )
    yield f"  curl http://127.0.0.1:{relay.web_port}/metrics"
    if keep:
        yield f"  {sys.argv[0]} audit show --config {relay.config}"


def run(*, keep: bool) -> None:
    """Run the whole demo; with `keep`, leave the relay running until Ctrl-C.

    Raises DemoError. Removes everything it started or wrote before it returns or raises.
    """
    ended = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="smtpproxy-demo-") as folder,
            CaptureMta() as mta,
            DemoRelay(Path(folder), mta.address) as relay,
        ):
            _show(relay, mta, Path(folder), keep)
            if keep:
                _stay(relay, mta)
    finally:
        signal.signal(signal.SIGTERM, ended)


def _show(relay: DemoRelay, mta: CaptureMta, folder: Path, keep: bool) -> None:
    now = datetime.now(UTC)
    _import(relay, folder, now)
    relay.start()
    imported = contacts(now).count("\n"), suppressions(now).count("\n") - 1
    print_text(
        [
            f"The relay listens on 127.0.0.1:{relay.smtp_port}, in front of an MTA on"
            f" {mta.address} that keeps what it receives.",
            "Imported: {} contacts and {} suppressions, all invented.".format(*imported),
            "",
        ]
    )
    before = relay.metrics()
    began = time.monotonic()
    outcomes = send(relay.smtp_port, LETTERS, now, relay.audit)
    seconds = time.monotonic() - began
    print_text(
        [
            _outcomes(outcomes),
            f"{len(outcomes)} messages in {seconds:.2f} s.",
            _compare(outcomes, mta),
            "",
            _moved(before, relay.metrics()),
            "",
            *_try_it(relay, keep),
        ]
    )


def _import(relay: DemoRelay, folder: Path, now: datetime) -> None:
    people = folder / "contacts.ndjson"
    people.write_text(contacts(now))
    relay.command("contact", "import", str(people))
    refused = folder / "suppressions.csv"
    refused.write_text(suppressions(now))
    relay.command("suppress", "import", str(refused))


def _compare(outcomes: Sequence[Outcome], mta: CaptureMta) -> str:
    """Return a line that the MTA holds exactly what was answered 250; otherwise raise."""
    wrong = [f"{o.letter.to}: {o.why}" for o in outcomes if o.why != o.letter.expected]
    if wrong:
        raise DemoError(f"not judged as expected: {', '.join(wrong)}")
    answered = sorted((o.message_id, o.letter.to) for o in outcomes if o.code == 250)
    held = sorted((_message_id(m.content), *m.recipients) for m in mta.messages)
    if answered != held:
        raise DemoError(
            f"{len(answered)} messages were answered 250, but the MTA holds {len(held)}, not the"
            " same: please report this"
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


def _stay(relay: DemoRelay, mta: CaptureMta) -> None:
    """Until Ctrl-C, show every message that reaches the MTA."""
    shown = len(mta.messages)
    try:
        print_text(["Ctrl-C ends the demo."])
        while relay.alive:
            for message in mta.messages[shown:]:
                print_text([f"The MTA got a message to {', '.join(message.recipients)}."])
                shown += 1
            time.sleep(0.2)
    except KeyboardInterrupt:
        print_text([""])
        return
    raise DemoError("the relay ended unexpectedly")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
