"""Copies of one message, put to the upstream one for each recipient.

Recipients are tried one after another until the upstream takes the first: what is wrong
with the message or the upstream shows while nobody is mailed, and is the client's answer
then. The others follow, some at once. docs/adr/0011-fan-out.md says why.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from smtpproxy.core.effects import AskUpstream, BeginData, SendContent, Steps, Together
from smtpproxy.core.recording import TEMPORARY_FAILURE, Recipient
from smtpproxy.core.services import Services
from smtpproxy.mail.dkim import SigningFailed
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable

AT_ONCE = 8
"""Connections that one message may take."""

_TROUBLE_ENOUGH = 3  # in a row: the upstream is not asked again for the others


class Delivered(Struct, frozen=True):
    """What became of one copy.

    `for_all`: the reply is about the message or the upstream, not about the recipient.
    """

    reply: Reply
    in_doubt: bool = False  # it was sent and not answered: it may be accepted
    for_all: bool = False
    again: bool = False  # the connection failed, and it was surely not sent
    notifies: bool = True  # the upstream sends the notifications that are asked for

    @property
    def accepted(self) -> bool:
        return self.reply.code < 300


class PerRecipientDelivery:
    """Puts copies to the upstream. Use `deliver` once."""

    def __init__(
        self,
        services: Services,
        *,
        mail: Callable[[Recipient], MailParameters],
        made: Callable[[Recipient], Steps[Iterator[bytes]]],
        answered: Callable[[Recipient], Steps[Reply | None]],
        mailed: Callable[[Recipient], Steps[None]],
        failed: Callable[[Exception], Reply],
    ) -> None:
        """`made` makes a recipient's copy, `mail` is what is said of it; `mailed` is told when the
        upstream has taken it.

        `answered` is asked last: it has the answer where the copy is not to be sent after all.
        `failed` is told of what fails, and says what is answered then.
        """
        self._services = services
        self._mail = mail
        self._made = made
        self._answered = answered
        self._mailed = mailed
        self._failed = failed
        self._trouble = 0

    def deliver(self, recipients: Sequence[Recipient]) -> Steps[list[Delivered]]:
        """Return what became of each, in their order; the first failure for all ends it
        while nobody is mailed, and several in a row end it later. Who surely got nothing then
        is tried one by one at the end: the upstream may take fewer connections at once."""
        outcomes: list[Delivered | None] = [None] * len(recipients)
        for index, recipient in enumerate(recipients):
            outcome = outcomes[index] = yield from self._one(recipient)
            if outcome.accepted:
                break
            if outcome.for_all:
                return [known or Delivered(outcome.reply) for known in outcomes]
        left = [index for index, known in enumerate(outcomes) if known is None]

        def later(index: int) -> Steps[None]:
            outcomes[index] = yield from self._later(recipients[index])

        def runs() -> Iterable[Steps[None]]:
            return (later(index) for index in left)

        if left:
            yield from Together(runs, AT_ONCE)
        results = [known or Delivered(TEMPORARY_FAILURE, for_all=True) for known in outcomes]
        for index, recipient in enumerate(recipients):
            if results[index].again:
                outcome = results[index] = yield from self._one(recipient)
                if outcome.for_all and not outcome.accepted:
                    break
        return results

    def _later(self, recipient: Recipient) -> Steps[Delivered]:
        if self._trouble >= _TROUBLE_ENOUGH:
            return Delivered(UpstreamError.reply, again=True)
        outcome = yield from self._one(recipient)
        self._trouble = self._trouble + 1 if outcome.for_all and not outcome.accepted else 0
        return outcome

    def _one(self, recipient: Recipient) -> Steps[Delivered]:
        """Mail one recipient, at the second attempt where the first surely failed."""
        first = yield from self._attempt(recipient)
        return (yield from self._attempt(recipient)) if first.again else first

    def _attempt(self, recipient: Recipient) -> Steps[Delivered]:
        upstream = self._services.open_upstream(self._mail(recipient))
        try:
            copy = yield from self._made(recipient)
            (reply,) = yield from AskUpstream(upstream, [recipient.rcpt])
            if reply.code >= 300:
                upstream.abort()
                return Delivered(reply)
            refusal = yield from BeginData(upstream)
            if refusal is not None:
                return Delivered(refusal, for_all=True)
            answer = yield from self._answered(recipient)
            if answer is not None:
                upstream.abort()
                return Delivered(answer)
            reply = yield from SendContent(upstream, copy)
        except UpstreamError as error:
            doubt = upstream.in_doubt
            return Delivered(self._failed(error), in_doubt=doubt, for_all=True, again=not doubt)
        except (SigningFailed, OSError, StoreUnavailable, AuditUnavailable) as error:
            upstream.abort()
            return Delivered(self._failed(error), for_all=True)
        except BaseException:
            upstream.abort()
            raise
        if reply.code < 300:
            yield from self._mailed(recipient)
        return Delivered(reply, for_all=True, notifies=upstream.notifies)


FAILURES = (UpstreamError, StoreUnavailable, AuditUnavailable, SigningFailed, OSError)
"""What may fail while a message is relayed: the answer is 451 then."""
