"""The demo from beginning to end."""

import signal
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from smtpproxy.demo import people, report
from smtpproxy.demo.capture import CaptureMta
from smtpproxy.demo.errors import DemoError
from smtpproxy.demo.letters import LETTERS
from smtpproxy.demo.relay import DemoRelay
from smtpproxy.demo.send import Outcome, send


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
        f"Imported: {people.contacts(now).count(chr(10))} contacts and"
        f" {people.suppressions(now).count(chr(10)) - 1} suppressions, all invented."
    )
    before = relay.metrics()
    began = time.monotonic()
    outcomes = send(relay.smtp_port, LETTERS, now, relay.audit)
    seconds = time.monotonic() - began
    report.print_outcomes(console, outcomes)
    console.print(f"{len(outcomes)} messages in {seconds:.2f} s.")
    console.print(_compare(outcomes, mta))
    report.print_moved(console, before, relay.metrics())
    report.print_try_it(console, relay.smtp_port, relay.web_port, relay.config, keep)


def _import(relay: DemoRelay, folder: Path, now: datetime) -> None:
    contacts = folder / "contacts.ndjson"
    contacts.write_text(people.contacts(now))
    relay.command("contact", "import", str(contacts))
    suppressions = folder / "suppressions.csv"
    suppressions.write_text(people.suppressions(now))
    relay.command("suppress", "import", str(suppressions))


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
