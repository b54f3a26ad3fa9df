"""Carries out the effects of transactions for a process that relays mail."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from smtpproxy.core import effects
from smtpproxy.core.effects import Handlers, Steps
from smtpproxy.events import Decided, Stage
from smtpproxy.policy.model import MessageFeatures, SignatureFinding
from smtpproxy.store.counters import BulkCounter, CopyLedger, MailingLog
from smtpproxy.store.protocols import FactReader, StoreUnavailable
from smtpproxy.store.streams import StreamCounts
from smtpproxy.waiting import Pending

if TYPE_CHECKING:  # what signs or asks the DNS is loaded where something does
    from smtpproxy.core.domains import Organisations, RecipientDomains
    from smtpproxy.relay.dkim_signing import Signer
    from smtpproxy.relay.dkim_verifying import Verifier

T = TypeVar("T")

UNSUBSCRIBE = (b"list-unsubscribe", b"list-unsubscribe-post")
"""What a signature has to cover (RFC 8058 section 4)."""


class AuditLog(Protocol):
    """Where decisions are put on record. `commit` raises AuditUnavailable."""

    def commit(self, decided: Decided) -> Awaitable[None]: ...


class Run(Pending[T]):
    """Steps on their way to their end, which is its answer.

    An effect with a ready answer continues at once, one that has to wait calls back. Only what
    is a coroutine, because it asks the DNS or a thread, gets a task.
    """

    __slots__ = ("_awaited", "_began", "_context", "_stage")

    def __init__(
        self,
        steps: Steps[T],
        handlers: Handlers,
        spent: dict[Stage, float],
        ticks: Callable[[], float] = perf_counter,
    ) -> None:
        """Seconds that effects take, by `ticks`, are added to `spent` under their stage."""
        super().__init__()
        self._context = steps, handlers, spent, ticks
        self._awaited: Pending[Any] | None = None
        self._stage: Stage = "policy"  # of the effect that is waited for
        self._began = 0.0  # when that was yielded
        self._go(None)

    def cancel(self) -> None:
        """Go no further: the steps are closed where they are."""
        super().cancel()
        if self._awaited is not None:
            self._awaited.cancel()
        self._context[0].close()

    def _go(self, answer: Pending[Any] | None) -> None:
        """Go on with the answer that was waited for, to the next that is not there yet."""
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
                    else:  # what was waited for was cancelled, and so is who waits
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
    """Run steps to their end, for who is a coroutine anyway."""
    return await Run(steps, handlers, {})


@dataclass(slots=True)
class Performer:
    """Calls the parts of a worker."""

    store: FactReader
    audit: AuditLog
    mailings: MailingLog | None = None  # where no stream counts what it sends
    bulk_counter: BulkCounter | None = None  # where no stream counts who is sent one text
    campaigns: StreamCounts | None = None  # where no stream has trials
    copies: CopyLedger | None = None  # where no client is asked to try again
    signer: "Signer | None" = None  # where there are no keys
    verifier: "Verifier | None" = None  # where no stream asks for signatures
    domains: "RecipientDomains | None" = None  # where the recipients' domains are not asked
    organisations: "Organisations | None" = None  # where no stream asks for relaxed alignment
    threads: Executor | None = None  # for long work; the loop has its own where it is None
    handlers: Handlers = field(init=False)

    def __post_init__(self) -> None:
        store, audit = self.store, self.audit
        self.handlers = {
            effects.ReadFacts: lambda effect: store.read(effect.lookups),
            effects.StoreVersion: lambda _: store.version(),
            effects.WriteRecord: lambda effect: audit.commit(effect.decided),
            effects.AskUpstream: lambda effect: effect.upstream.recipients(effect.recipients),
            effects.BeginData: lambda effect: effect.upstream.begin_data(),
            effects.SendContent: lambda effect: effect.upstream.finish(effect.content),
            effects.AskDomains: self._ask_domains,
            effects.FindOrganisations: self._find_organisations,
            effects.CheckSignatures: self._check_signatures,
            effects.CountText: self._count_text,
            effects.CountCampaign: self._count_campaign,
            effects.ReleaseCampaign: self._release_campaign,
            effects.CountMailing: self._count_mailing,
            effects.ReleaseMailing: self._release_mailing,
            effects.Sign: self._sign,
            effects.FindCopies: self._find_copies,
            effects.NoteCopy: self._note_copy,
            effects.ForgetCopies: self._forget_copies,
            effects.Together: self._together,
            effects.InThread: self._in_thread,
        }

    def _ask_domains(self, effect: effects.AskDomains) -> Awaitable[Mapping[str, bool]]:
        return _there(self.domains).null_mx(effect.addresses)

    def _find_organisations(
        self, effect: effects.FindOrganisations
    ) -> Awaitable[tuple[MessageFeatures, str]]:
        from smtpproxy.core.domains import with_organisations

        return with_organisations(_there(self.organisations), effect.stream, effect.features)

    def _check_signatures(
        self, effect: effects.CheckSignatures
    ) -> Awaitable[tuple[SignatureFinding, ...]]:
        return _there(self.verifier).check(effect.headers, effect.body, UNSUBSCRIBE)

    def _count_text(self, effect: effects.CountText) -> Awaitable[int]:
        counter = _there(self.bulk_counter)
        count = counter.count if effect.exact else counter.estimate
        return count(effect.key, effect.people, effect.at, effect.window, effect.most)

    def _count_campaign(self, effect: effects.CountCampaign) -> Awaitable[Any]:
        e = effect
        return _there(self.campaigns).count_campaign(e.stream, e.key, e.id, e.people, e.at, e.most)

    def _release_campaign(self, effect: effects.ReleaseCampaign) -> Awaitable[None]:
        e = effect
        return _there(self.campaigns).uncount_campaign(e.key, e.id, e.people, e.most)

    def _count_mailing(self, effect: effects.CountMailing) -> Awaitable[Any]:
        mailings = _there(self.mailings)
        return mailings.reserve(effect.id, effect.stream, effect.addresses, effect.at)

    def _release_mailing(self, effect: effects.ReleaseMailing) -> Awaitable[None]:
        return _there(self.mailings).release(effect.id, effect.addresses)

    def _sign(self, effect: effects.Sign) -> Awaitable[bytes]:
        return _there(self.signer).sign(effect.keys, effect.headers, effect.body, effect.at)

    def _find_copies(self, effect: effects.FindCopies) -> Awaitable[frozenset[str]]:
        copies = _there(self.copies)
        return copies.find(effect.reverse_path, effect.digest, effect.paths)

    def _note_copy(self, effect: effects.NoteCopy) -> Awaitable[None]:
        copies = _there(self.copies)
        return copies.note(effect.reverse_path, effect.digest, effect.path)

    def _forget_copies(self, effect: effects.ForgetCopies) -> Awaitable[None]:
        return _there(self.copies).forget(effect.reverse_path, effect.digest, effect.paths)

    def _in_thread(self, effect: effects.InThread[T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self.threads, effect.work)

    async def _together(self, effect: effects.Together) -> None:
        runs = iter(effect.runs())

        async def work() -> None:
            for steps in runs:
                await drive(steps, self.handlers)

        runs_done = [work() for _ in range(effect.at_once)]
        for result in await asyncio.gather(*runs_done, return_exceptions=True):
            if isinstance(result, BaseException):  # nothing goes on behind the failure
                raise result


def _there(part: T | None) -> T:
    """A part that no setting asked for cannot be asked: a fault of the program, so a 451."""
    if part is None:
        raise StoreUnavailable("this process was not given what the transaction asks for")
    return part
