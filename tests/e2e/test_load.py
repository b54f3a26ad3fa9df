"""Postfix's own load generator, 200 sessions at once: every message is accounted for.

`make soak` sends a hundred times as much.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpproxy.sinks.audit.reader import Record
from tests.kit.audit import outcome, records, relayed
from tests.kit.load import SmtpSink, smtp_source
from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.soak import LONGEST, times
from tests.kit.store import address

pytestmark = [
    needs("smtp-sink", "smtp-source"),
    pytest.mark.soak,
    pytest.mark.timeout(LONGEST),
]


@pytest.fixture
def relay(sink: SmtpSink, filled: Callable[..., RelayProcess]) -> RelayProcess:
    listeners = [
        listener("till", "receipts", default="receipts"),
        listener("shop", "offers", default="offers"),
    ]
    return filled(sink.address, {"server": {"workers": 2}, "listener": listeners, "web": {}})


def lf_file(folder: Path, mail: bytes) -> Path:
    path = folder / "mail"
    path.write_bytes(mail.replace(b"\r\n", b"\n"))
    return path


def check_all_on_record(relay: RelayProcess, sink: SmtpSink, count: int) -> None:
    """Check that the sink and the journal have as many messages as were answered 250."""
    wait_for(lambda: sink.messages >= count, f"{count} messages at the sink")
    assert sink.messages == count

    def finished() -> list[Record]:
        entries = relayed(records(relay))
        return entries if all(entry.outcome for entry in entries) else []

    entries = wait_for(finished, "the last outcomes", every=1.0)
    assert Counter(map(outcome, entries)) == {250: count}
    assert len({entry.decided.id for entry in entries}) == count
    assert relay.metric("smtpproxy_relayed_total", code_class="2xx") == count
    assert relay.metric("smtpproxy_failures_total") == 0


def test_receipts_over_200_sessions_are_all_accounted_for(
    relay: RelayProcess, sink: SmtpSink, tmp_path: Path
) -> None:
    count = times(1_000, 100_000)
    sent = smtp_source(
        f"127.0.0.1:{relay.port('till')}", count,
        sessions=200, reuse=True, sender="orders@shop.example", numbered=True,
        file=lf_file(tmp_path, message(body="x" * 76 + "\r\n") + (b"x" * 76 + b"\r\n") * 48),
        timeout=800,
    )  # fmt: skip
    assert (sent.exit_code, sent.accepted) == (0, count), sent.output
    print(f"{sent.accepted} receipts in {sent.seconds:.1f} s")
    check_all_on_record(relay, sink, count)


def test_newsletters_over_200_sessions_are_all_accounted_for(
    relay: RelayProcess, sink: SmtpSink, tmp_path: Path
) -> None:
    count = times(400, 20_000)
    sent = smtp_source(
        f"127.0.0.1:{relay.port('shop')}", count,
        sessions=200, to=address("consent"), file=lf_file(tmp_path, marketing()),
        timeout=800,
    )  # fmt: skip
    assert (sent.exit_code, sent.accepted) == (0, count), sent.output
    print(f"{sent.accepted} newsletters in {sent.seconds:.1f} s")
    check_all_on_record(relay, sink, count)
    assert relay.metric("smtpproxy_allowed_total", stream="offers", basis="consent") == count


def test_a_refused_newsletter_never_reaches_the_sink(
    relay: RelayProcess, sink: SmtpSink, tmp_path: Path
) -> None:
    sent = smtp_source(
        f"127.0.0.1:{relay.port('shop')}", 100,
        sessions=10, to=address("withdrawn"), file=lf_file(tmp_path, marketing()),
    )  # fmt: skip
    assert sent.exit_code != 0
    assert "550 5.7.1 <withdrawn@people.example> refused: consent_withdrawn" in sent.output
    assert (sent.accepted, sink.messages) == (0, 0)
