"""Carries out the effects of transactions in a process that relays mail."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from smtpproxy.core import effects
from smtpproxy.core.effects import Handlers, Steps
from smtpproxy.events import Stage
from smtpproxy.policy.model import MessageFeatures
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.store.records import FactReader, StoreUnavailable
from smtpproxy.store.sql.bulk import BulkCounter
from smtpproxy.store.sql.copies import CopyLedger
from smtpproxy.store.sql.mailings import MailingLog
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.waiting import Pending

if TYPE_CHECKING:  # loaded only where something signs or asks the DNS
    from smtpproxy.core.domains import Organisations, RecipientDomains
    from smtpproxy.relay.dkim_signing import Signer
    from smtpproxy.relay.dkim_verifying import Verifier

T = TypeVar("T")

UNSUBSCRIBE = (b"list-unsubscribe", b"list-unsubscribe-post")
"""What a signature has to cover (RFC 8058 section 4)."""


class Run(Pending[T]):
    """Steps that are being carried out; their result is its answer.

    If an effect has its answer ready, the steps go on immediately; otherwise it calls back. Only a
    coroutine, which uses the DNS or a thread, gets a task.
    """

    __slots__ = ("_awaited", "_began", "_context", "_stage")

    def __init__(
        self,
        steps: Steps[T],
        handlers: Handlers,
        spent: dict[Stage, float],
        ticks: Callable[[], float] = perf_counter,
    ) -> None:
        """The seconds that effects take are added to `spent` under their stage."""
        self.done = False  # not by `super`, as in Exchange
        self.value = self.error = self._callback = self._source = None
        self._context = steps, handlers, spent, ticks
        self._awaited: Pending[Any] | None = None
        self._stage: Stage = "policy"  # of the effect that it waits for
        self._began = 0.0  # when that was yielded
        self._go(None)

    def cancel(self) -> None:
        """Stop, and close the steps where they are."""
        super().cancel()
        if self._awaited is not None:
            self._awaited.cancel()
        self._context[0].close()

    def _go(self, answer: Pending[Any] | None) -> None:
        """Go on with the answer that it waited for, up to the next one that is not ready."""
        steps, handlers, spent, ticks = self._context
        began, stage = self._began, self._stage
        try:
            while True:
                if answer is None:
                    effect = steps.send(None)
                else:
                    spent[stage] = spent.get(stage, 0.0) + ticks() - began
                    if answer.error is None:
                        effect = steps.send(answer.value)
                    elif isinstance(answer.error, Exception):
                        effect = steps.throw(answer.error)
                    else:  # what it waited for was cancelled, so this is too
                        steps.close()
                        self.fail(answer.error)
                        return
                stage, began = effect.stage, ticks()
                try:
                    answer = handlers[type(effect)](effect)
                    if not isinstance(answer, Pending):
                        answer = Pending.of(answer)
                except Exception as failure:
                    answer = Pending.failed(failure)
                if not answer.done:
                    self._awaited, self._stage, self._began = answer, stage, began
                    answer.when_done(self._go)
                    return
        except StopIteration as stop:
            self.settle(stop.value)
        except Exception as failure:
            self.fail(failure)


async def drive(steps: Steps[T], handlers: Handlers) -> T:
    """Run steps to their end, for a caller that is a coroutine anyway."""
    return await Run(steps, handlers, {})


@dataclass(eq=False, slots=True)
class Performer:
    """Carries out effects with the parts of a worker; a part is None where no setting needs it."""

    store: FactReader
    audit: Journal
    mailings: MailingLog | None = None
    bulk_counter: BulkCounter | None = None
    campaigns: StreamCounts | None = None
    copies: CopyLedger | None = None
    signer: "Signer | None" = None
    verifier: "Verifier | None" = None
    domains: "RecipientDomains | None" = None
    organisations: "Organisations | None" = None
    threads: Executor | None = None  # for long work; None: the loop's own
    handlers: Handlers = field(init=False)

    def __post_init__(self) -> None:
        store, audit = self.store, self.audit
        self.handlers = {
            effects.ReadFacts: lambda e: store.read(e.lookups),
            effects.StoreVersion: lambda _: store.version(),
            effects.WriteRecord: lambda e: audit.commit(e.decided),
            effects.AskUpstream: lambda e: e.upstream.recipients(e.recipients),
            effects.BeginData: lambda e: e.upstream.begin_data(),
            effects.SendContent: lambda e: e.upstream.send_content(e.content),
            effects.AskDomains: lambda e: _required(self.domains).null_mx(e.addresses),
            effects.FindOrganisations: self._find_organisations,
            effects.CheckSignatures: lambda e: _required(self.verifier).check(
                e.headers, e.body, UNSUBSCRIBE
            ),
            effects.CountText: self._count_text,
            effects.CountCampaign: lambda e: _required(self.campaigns).count_campaign(
                e.stream, e.key, e.id, e.people, e.at, e.most
            ),
            effects.ReleaseCampaign: lambda e: _required(self.campaigns).uncount_campaign(
                e.key, e.id, e.people, e.most
            ),
            effects.CountMailing: lambda e: _required(self.mailings).reserve(
                e.id, e.stream, e.addresses, e.at
            ),
            effects.ReleaseMailing: lambda e: _required(self.mailings).release(e.id, e.addresses),
            effects.Sign: lambda e: _required(self.signer).sign(e.keys, e.headers, e.body, e.at),
            effects.FindCopies: lambda e: _required(self.copies).find(
                e.reverse_path, e.digest, e.paths
            ),
            effects.NoteCopy: lambda e: _required(self.copies).note(
                e.reverse_path, e.digest, e.path
            ),
            effects.ForgetCopies: lambda e: _required(self.copies).forget(
                e.reverse_path, e.digest, e.paths
            ),
            effects.RunConcurrently: self._run_concurrently,
            effects.InThread: lambda e: asyncio.get_running_loop().run_in_executor(
                self.threads, e.work
            ),
        }

    def _find_organisations(
        self, effect: effects.FindOrganisations
    ) -> Awaitable[tuple[MessageFeatures, str]]:
        from smtpproxy.core.domains import with_organisations

        return with_organisations(_required(self.organisations), effect.stream, effect.features)

    def _count_text(self, effect: effects.CountText) -> Awaitable[int]:
        counter = _required(self.bulk_counter)
        count = counter.count if effect.exact else counter.estimate
        return count(effect.key, effect.people, effect.at, effect.window, effect.most)

    async def _run_concurrently(self, effect: effects.RunConcurrently) -> None:
        runs = iter(effect.runs())

        async def work() -> None:
            for steps in runs:
                await drive(steps, self.handlers)

        runs_done = [work() for _ in range(effect.at_once)]
        for result in await asyncio.gather(*runs_done, return_exceptions=True):
            if isinstance(result, BaseException):  # only now that all have ended
                raise result


def _required(part: T | None) -> T:
    """Return a part. Only a fault of the program needs one that no setting asked for: a 451."""
    if part is None:
        raise StoreUnavailable("this process lacks a part that the transaction needs")
    return part
