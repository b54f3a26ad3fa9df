"""The demo from beginning to end."""

import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from smtpproxy.cli.printer import VERDICT_STYLES, Column, Styled, Table, print_text
from smtpproxy.demo.letters import LETTERS, Letter, contacts, suppressions
from smtpproxy.demo.relay import PUBLIC_URL, CaptureMta, DemoError, DemoRelay
from smtpproxy.demo.sending import Outcome, send

_COUNTED = ("allowed_total", "messages_total", "recipients_total", "relayed_total")
"""The metrics to show; `allowed_total` counts what was let through."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_OUTCOME = (
    *(Column(heading) for heading in ("to", "stream", "verdict", "basis or reason")),
    Column("the reply", prose=True),
)
_METRIC = (Column("metrics"), Column("before", right=True), Column("after", right=True))


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
    """Return the counters of what was let through, and of what was refused and why."""
    names = [
        name
        for name in sorted(after)
        if name.partition("{")[0].removeprefix("smtpproxy_") in _COUNTED
        and 'verdict="allow"' not in name
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

    Raises DemoError. Removes everything it started or wrote before it returns or raises, also when
    the terminal is closed (SIGHUP, unless nohup has it ignored).
    """
    numbers = [n for n in _ENDING if signal.getsignal(n) is not signal.SIG_IGN]
    former = {number: signal.signal(number, _interrupt) for number in numbers}
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
        for number, handler in former.items():
            signal.signal(number, handler)


def _show(relay: DemoRelay, mta: CaptureMta, folder: Path, keep: bool) -> None:
    now = datetime.now(UTC)
    _import(relay, folder, now)
    relay.start()
    imported = contacts(now).count("\n"), suppressions(now).count("\n") - 1
    print_text(
        [
            f"A relay listens on 127.0.0.1:{relay.smtp_port}, in front of an MTA on"
            f" {mta.address} that keeps what it receives.",
            "It knows {} people and {} who must not be mailed, all invented.".format(*imported),
            "An app sends each of these messages over SMTP, and gets the reply at the end of the"
            " line:",
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
            *unsubscribe(relay, mta, now),
            "",
            "What Prometheus sees of it (all metrics are at /metrics):",
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


_READER = "jeanne@people.example"
_NEWS = Letter(_READER, "letters", "consent", unsubscribe=None, one_click=False)
_LINK = re.compile(re.escape(PUBLIC_URL) + r"(/u/[\w-]+)")
_ID = re.compile(r"id=(\w{26})")


def unsubscribe(relay: DemoRelay, mta: CaptureMta, now: datetime) -> Iterator[str]:
    """Have her unsubscribe by the link that the relay adds; yield what happens, and why.

    Raises DemoError if anything else happens than should.
    """
    yield f"{_READER} unsubscribes with the button of her mail program:"
    first = _sent(relay, now, 1)
    link = _LINK.search(mta.messages[-1].content.decode("ascii", "replace").replace("\r\n", ""))
    if first.code != 250 or link is None:
        raise DemoError(f"the newsletter has no link: {first.reply}")
    yield f"  1. A newsletter to her, with the link that the relay added: {first.reply}"
    status = relay.post(link[1], b"List-Unsubscribe=One-Click")
    if status != 200:
        raise DemoError(f"her link does not work: {status}")
    yield f"  2. Her mail program sends one POST to that link: {status}"
    second = _sent(relay, now, 2)
    id = _ID.search(second.reply)
    if second.why != "suppressed_unsubscribe" or id is None:
        raise DemoError(f"she is still mailed: {second.reply}")
    yield f"  3. The next newsletter to her: {second.reply}"
    yield ""
    yield f"Why? `smtpproxy explain --id {id[1]}` says, in English or French, even years later:"
    yield from _essence(relay.command("explain", "--id", id[1], code=1))


def _sent(relay: DemoRelay, now: datetime, number: int) -> Outcome:
    (outcome,) = send(relay.smtp_port, [_NEWS], now, relay.audit, f"letter{number}")
    return outcome


def _essence(explanation: str) -> Iterator[str]:
    """Yield what was decided about the recipient, and what would change it, without the steps."""
    about = explanation.rpartition(f"\n{_READER}")[2].partition("\n\n  Step by step\n")[0]
    yield from (f"  {line}".rstrip() for line in f"{_READER}{about}".splitlines())
