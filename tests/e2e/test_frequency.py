"""Frequency caps: nobody gets more than the stream allows, however many workers send."""

import smtplib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.test_ways_out import bare, config
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, Close, FakeUpstream, Reply

SUBSCRIBER, OTHER, DESK = address("consent"), address("customer"), address("desk")


def _streams(**offers: Any) -> list[dict[str, Any]]:
    return [{**stream, **offers} if stream["name"] == "offers" else stream for stream in STREAMS]


@pytest.fixture(scope="module")
def capped(filled: Callable[..., RelayProcess]) -> Callable[..., RelayProcess]:
    """Start a relay whose stream `offers` has a cap."""

    def start(upstream: str, cap: str = "2/7d", workers: int = 1, **policy: Any) -> RelayProcess:
        config = {
            "server": {"workers": workers},
            "stream": _streams(frequency_cap=cap),
            "listener": [listener("apps", "offers", "receipts", default="offers")],
            "policy": policy,
        }
        return filled(upstream, config)

    return start


@pytest.fixture(scope="module")
def once_a_week(capped: Callable[..., RelayProcess], mta: FakeUpstream) -> RelayProcess:
    """A relay for several tests, each of which mails somebody else."""
    return capped(mta.address, "1/7d")


def test_two_workers_together_send_no_more_than_the_cap(
    capped: Callable[..., RelayProcess],
) -> None:
    with FakeUpstream() as mta:
        relay = capped(mta.address, "3/7d", workers=2)

        def send(_: int) -> tuple[int, str]:
            return relay.send(marketing(), SUBSCRIBER)

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(send, range(48)))
        assert sorted(code for code, _ in answers) == [250] * 3 + [450] * 45
        assert len(mta.messages) == 3
        deferred = next(text for code, text in answers if code == 450)
        assert f"<{SUBSCRIBER}> deferred: frequency_cap (stream offers)" in deferred
        assert relay.send(marketing(), OTHER)[0] == 250
        receipts = message(stream="receipts")
        assert relay.send(receipts, SUBSCRIBER)[0] == 250


def test_mail_refused_by_the_upstream_does_not_count(
    once_a_week: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin(At("end", Reply("451 4.2.0 later"), nth=1), At("end", Reply("554 no"), nth=2))
    codes = [once_a_week.send(marketing(), SUBSCRIBER)[0] for _ in range(4)]
    assert codes == [451, 554, 250, 450]
    assert len(mta.messages) == 1


def test_mail_that_the_upstream_may_have_accepted_counts(
    once_a_week: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin(At("end", Close(), nth=1))
    assert [once_a_week.send(marketing(), OTHER)[0] for _ in range(2)] == [451, 450]


def test_a_cap_can_cover_all_marketing(filled: Callable[..., RelayProcess]) -> None:
    with FakeUpstream() as mta:
        config = {
            "policy": {"frequency_cap": "1/24h"},
            "listener": [listener("apps", "offers", "appeals", default="offers")],
        }
        relay = filled(mta.address, config)
        assert relay.send(marketing(), SUBSCRIBER)[0] == 250
        code, text = relay.send(marketing(), SUBSCRIBER)
        assert (code, "frequency_cap" in text) == (450, True)


def test_the_record_has_the_mailings_it_was_based_on(
    once_a_week: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin()
    for _ in range(2):
        once_a_week.send(marketing(), DESK)
    ours = [record.decided for record in records(once_a_week) if DESK in record.decided.facts]
    first, second = sorted(ours, key=lambda decided: decided.at)
    assert first.facts[DESK].mailings == ()
    (counted,) = second.facts[DESK].mailings
    assert (counted.stream, counted.at <= second.at) == ("offers", True)


def test_observed_mail_passes_and_the_record_says_what_was_decided(
    capped: Callable[..., RelayProcess],
) -> None:
    with FakeUpstream() as mta:
        relay = capped(mta.address, "1/7d", mode="observe")
        assert [relay.send(marketing(), SUBSCRIBER)[0] for _ in range(2)] == [250, 250]
        second = max((record.decided for record in records(relay)), key=lambda one: one.at)
        assert (second.observed, second.recipients[0].verdict.reason) == (True, "frequency_cap")


def test_a_retry_for_others_does_not_report_failure_for_people_already_mailed(
    filled: Callable[..., RelayProcess],
) -> None:
    """A mail server would retry for days for somebody who has the message, and report failure."""
    with FakeUpstream(At("end", Reply("451 4.2.0 later"), nth=2)) as mta:
        more = config(frequency_cap="1/7d")
        more["listener"] = [listener("apps", "offers", default="offers")]
        relay = filled(mta.address, more)
        code, text = relay.send(bare(message_id="<1@shop.example>"), SUBSCRIBER, OTHER)
        assert (code, "relayed to 1 of 2 recipients" in text) == (451, True)
        assert relay.send(bare(subject="Another"), SUBSCRIBER)[0] == 450
        alike = bare(message_id="<2@shop.example>")  # of the same size: RCPT cannot know
        assert relay.send(alike, SUBSCRIBER)[0] == 450
        assert len(mta.messages) == 1
        assert rcpt(relay, size=1) == 450, "nobody else may be refused because of it"
        assert relay.send(bare(message_id="<1@shop.example>"), SUBSCRIBER, OTHER)[0] == 250
        assert [one.recipients for one in mta.messages] == [(SUBSCRIBER,), (OTHER,)]
        assert rcpt(relay, len(bare(message_id="<1@shop.example>"))) == 450, (
            "it must wait no longer"
        )


def rcpt(relay: RelayProcess, size: int) -> int:
    with smtplib.SMTP(LOOPBACK, relay.port()) as client:
        client.ehlo()
        client.mail("news@shop.example", [f"size={size}"])
        return client.rcpt(SUBSCRIBER)[0]
