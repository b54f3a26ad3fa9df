"""Copies of a message, without an event loop: the test answers every effect."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from smtpproxy.core import effects
from smtpproxy.core.delivering import Delivered, PerRecipientDelivery
from smtpproxy.core.effects import Steps
from smtpproxy.core.recording import Recipient
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt

ANN, BOB, CYD, DAN = (Recipient(Rcpt(f"{n}@x.example"), f"{n}@x.example") for n in "abcd")
OK = Reply.of(250, "2.0.0", "queued")


class Upstream:
    in_doubt = False
    notifies = True

    def abort(self) -> None:
        pass


class Services:
    def open_upstream(self, mail: MailParameters) -> Upstream:
        return Upstream()


def delivered(
    answers: dict[Recipient, Reply],
    failure: Exception | None = None,
    *,
    reply_for_each: bool = False,
) -> tuple[list[Delivered], list[Exception], list[str]]:
    """What becomes of each copy; `failure` strikes when BOB is looked at again."""
    failures, noted = list[Exception](), list[str]()

    def made(recipient: Recipient) -> Steps[Iterator[bytes]]:
        yield from ()
        return iter((recipient.canonical.encode(),))

    def failed(error: Exception) -> Reply:
        failures.append(error)
        return Reply.of(451, "4.3.0", "temporary_failure")

    def mailed(recipient: Recipient) -> Steps[None]:
        yield from ()
        noted.append(recipient.path)

    def answered(recipient: Recipient) -> Steps[Reply | None]:
        yield from ()
        if recipient is BOB and failure is not None:
            raise failure
        return None

    delivery = PerRecipientDelivery(
        cast(Any, Services()),
        mail_parameters=lambda _: MailParameters("s@x.example"),
        make_copy=made,
        answer_instead=answered,
        note_mailed=mailed,
        report_failure=failed,
        reply_for_each=reply_for_each,
    )

    def run(steps: Steps[Any]) -> Any:
        answer: Any = None
        try:
            while True:
                effect = steps.send(answer)
                answer = None
                match effect:
                    case effects.AskUpstream():
                        answer = [OK] * len(effect.recipients)
                    case effects.SendContent():
                        (octets,) = effect.content
                        (answer,) = [a for r, a in answers.items() if r.path.encode() == octets]
                    case effects.RunConcurrently():
                        for each in effect.runs():
                            run(each)
        except StopIteration as stop:
            return stop.value

    return run(delivery.deliver(list(answers))), failures, noted


@pytest.mark.parametrize(
    "failure", [AuditUnavailable("full"), StoreUnavailable("locked")], ids=["audit", "store"]
)
def test_a_failure_for_one_recipient_defers_them_and_mails_the_others(
    failure: Exception,
) -> None:
    results, failures, noted = delivered({ANN: OK, BOB: OK, CYD: OK}, failure)
    assert [result.reply.code for result in results] == [250, 451, 250]
    assert failures == [failure]
    assert noted == [ANN.path, CYD.path]


def test_recipients_with_a_copy_are_remembered_and_refused_ones_are_not() -> None:
    refused = Reply.of(550, "5.1.1", "no such user")
    results, _, noted = delivered({ANN: OK, BOB: refused, CYD: OK})
    assert [result.reply.code for result in results] == [250, 550, 250]
    assert noted == [ANN.path, CYD.path]


def test_a_message_refused_at_the_first_copy_goes_to_nobody() -> None:
    refused = Reply.of(552, "5.3.4", "too large")
    results, _, noted = delivered({ANN: refused, BOB: OK, CYD: OK})
    assert [result.reply.code for result in results] == [552, 552, 552]
    assert noted == []


@pytest.mark.parametrize("code", [452, 552])
def test_over_lmtp_three_refusals_in_a_row_refuse_the_content_to_the_rest(code: int) -> None:
    """One refusal may just be a full mailbox, at this attempt and at the next."""
    full = Reply.of(code, f"{code // 100}.2.2", "mailbox full")
    results, _, noted = delivered({ANN: full, BOB: OK, CYD: OK}, reply_for_each=True)
    assert [result.reply.code for result in results] == [code, 250, 250]
    assert noted == [BOB.path, CYD.path]
    three = dict.fromkeys((ANN, BOB, CYD), full)
    results, _, _ = delivered({**three, DAN: OK}, reply_for_each=True)
    assert [result.reply.code for result in results] == [code] * 4
