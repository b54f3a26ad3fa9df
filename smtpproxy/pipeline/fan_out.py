"""One message to several recipients as one message each, because no two are the same.

Recipients are tried one after another until the upstream takes the first: what is wrong
with the message or the upstream shows while nobody is mailed, and is the client's answer
then. The others follow, some at once. docs/adr/0011-fan-out.md says why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec import Struct

from smtpproxy.events import Emit, Failed, Part
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.errors import SigningFailed, UpstreamError
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import MailParameters, UpstreamTransaction
from smtpproxy.wire.commands import Rcpt

AT_ONCE = 8
"""Connections that one message may take."""

_TROUBLE_ENOUGH = 3  # in a row: the upstream is not asked again for the others


class Copy(Struct, frozen=True):
    """A recipient and what he is to get; `content` may raise SigningFailed, OSError."""

    rcpt: Rcpt
    content: Callable[[], Awaitable[Iterable[bytes]]]


class Delivered(Struct, frozen=True):
    """What became of one copy.

    `for_all`: the reply is about the message or the upstream, not about the recipient.
    """

    reply: Reply
    in_doubt: bool = False  # it was sent and not answered: it may be accepted
    for_all: bool = False
    again: bool = False  # trouble of the connection, and it was surely not sent
    notifies: bool = True  # the upstream sends the notifications that are asked for

    @property
    def accepted(self) -> bool:
        return self.reply.code < 300


class FanOut:
    """Puts copies to the upstream. Use `deliver` once."""

    def __init__(
        self, pool: UpstreamPool, mail: MailParameters, *, emit: Emit, listener: str
    ) -> None:
        self._pool = pool
        self._mail = mail
        self._emit = emit
        self._listener = listener
        self._trouble = 0

    async def deliver(self, copies: Sequence[Copy]) -> list[Delivered]:
        """Return what became of each, in their order; the first failure for all ends it
        while nobody is mailed, and several in a row end it later. Who surely got nothing then
        is tried one by one at the end: the upstream may take fewer connections at once."""
        outcomes: list[Delivered | None] = [None] * len(copies)
        for index, copy in enumerate(copies):
            outcome = outcomes[index] = await self._one(copy)
            if outcome.accepted:
                break
            if outcome.for_all:
                return [known or Delivered(outcome.reply) for known in outcomes]
        left = iter([index for index, known in enumerate(outcomes) if known is None])

        async def work() -> None:
            for index in left:
                outcomes[index] = await self._later(copies[index])

        await asyncio.gather(*[work() for _ in range(min(AT_ONCE, len(copies)))])
        results = [known for known in outcomes if known is not None]
        for index, copy in enumerate(copies):
            if results[index].again:
                outcome = results[index] = await self._one(copy)
                if outcome.for_all and not outcome.accepted:
                    break
        return results

    async def _later(self, copy: Copy) -> Delivered:
        if self._trouble >= _TROUBLE_ENOUGH:
            return Delivered(UpstreamError.reply, again=True)
        outcome = await self._one(copy)
        self._trouble = self._trouble + 1 if outcome.for_all and not outcome.accepted else 0
        return outcome

    async def _one(self, copy: Copy) -> Delivered:
        """Mail one recipient, at the second attempt where the first surely failed for trouble."""
        first = await self._attempt(copy)
        return await self._attempt(copy) if first.again else first

    async def _attempt(self, copy: Copy) -> Delivered:
        upstream = UpstreamTransaction(self._pool, self._mail)
        try:
            content = await copy.content()
            (reply,) = await upstream.recipients([copy.rcpt])
            if reply.code >= 300:
                upstream.abort()
                return Delivered(reply)
            upstream.begin_data()
            reply = await upstream.data_refusal() or await upstream.finish(content)
            return Delivered(reply, for_all=True, notifies=upstream.notifies)
        except UpstreamError as error:
            self._emit(Failed(self._listener, "upstream", f"{type(error).__name__}: {error}"))
            doubt = upstream.in_doubt
            return Delivered(error.reply, in_doubt=doubt, for_all=True, again=not doubt)
        except (SigningFailed, OSError) as error:
            part: Part = "sign" if isinstance(error, SigningFailed) else "spool"
            self._emit(Failed(self._listener, part, f"{type(error).__name__}: {error}"))
            return Delivered(_OURS, for_all=True)


_OURS = Reply.of(451, "4.3.0", "temporary_failure")
