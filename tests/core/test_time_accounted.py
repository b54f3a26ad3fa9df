"""The stages of a transaction add up to its total time, and none is negative."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from smtpproxy.core import effects
from smtpproxy.core.advice import DelegatedTransaction, MilterTransaction
from smtpproxy.core.content_checks import ON_LOOP
from smtpproxy.core.perform import Run
from smtpproxy.core.services import StreamChoice
from smtpproxy.events import Client, Stage, TransactionEnded
from smtpproxy.policy.model import Stream
from smtpproxy.relay.content import Body
from smtpproxy.waiting import Pending
from tests.core.driving import PEOPLE, Setting
from tests.core.present import Present, facts_of
from tests.core.world import World

ANN, *_ = PEOPLE
CLIENT = Client("apps", "192.0.2.9", "client.example")
OFFERS = Stream("offers", purpose="offers", body_optout=True)
CHOICE = StreamChoice.of([OFFERS], OFFERS)


class Timed:
    """An environment in which each effect takes a second and everything else none."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._told: list[object] = []
        world = World()
        driver = Present(world, Setting("policy"))
        driver.close()
        self.services = replace(
            driver.services,
            ticks=lambda: self._seconds,
            emit=self._told.append,
            counts_mailings=False,
            record_waits=False,
        )
        self.handlers: dict[type, Callable[[Any], Any]] = {
            effects.StoreVersion: self._in_a_second(lambda _: "version"),
            effects.ReadFacts: self._in_a_second(
                lambda effect: (facts_of(world, effect.lookups.addresses), "version")
            ),
            effects.WriteRecord: self._in_a_second(lambda _: None),
            effects.InThread: self._in_a_second(lambda effect: effect.work()),
        }

    def run(self, transaction: Any, steps: effects.Steps[Any]) -> Run[Any]:
        return Run(steps, self.handlers, transaction.spent, self.services.ticks)

    def stages(self) -> Mapping[Stage, float]:
        (ended,) = [event for event in self._told if isinstance(event, TransactionEnded)]
        assert sum(ended.stages.values()) == ended.seconds
        return ended.stages

    def _in_a_second(self, answer: Callable[[Any], Any]) -> Callable[[Any], Pending[Any]]:
        def handler(effect: Any) -> Pending[Any]:
            self._seconds += 1.0
            return Pending.settled(answer(effect))

        return handler


def test_work_in_a_thread_counts_as_policy_time_like_work_on_the_loop() -> None:
    timed = Timed()
    transaction = MilterTransaction(
        timed.services, CLIENT, "a@shop.example", CHOICE, refuses_at_rcpt=True, can_delete=True
    )
    timed.run(transaction, transaction.recipient(ANN)).result()
    header = b"From: a@shop.example\r\n\r\n"
    text = b"x" * (ON_LOOP + 1)
    body = Body(lambda: iter([text]), len(text))
    steps = transaction.message(header, len(header) + len(text), "", body)
    timed.run(transaction, steps).result()
    stages = timed.stages()
    assert sorted(stages) == ["audit", "policy", "store"]
    assert stages["policy"] == 1.0


def test_time_spent_before_an_internal_failure_is_included() -> None:
    timed = Timed()

    def fails(_: Any) -> Pending[Any]:
        raise RuntimeError("a fault")

    transaction = DelegatedTransaction(timed.services, CLIENT, "a@shop.example", CHOICE)
    timed.handlers[effects.WriteRecord] = fails
    assert timed.run(transaction, transaction.recipient(ANN)).error is not None
    transaction.ended()
    assert timed.stages()["policy"] == 0.0
