"""Delivers a copy of one message to each recipient.

Recipients are tried one after another until the upstream accepts the first: a fault of the message
or the upstream then shows while nobody has been mailed, and becomes the client's answer. The others
follow, several at once. docs/adr/0011-fan-out.md says why.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from smtpproxy.core.effects import AskUpstream, BeginData, RunConcurrently, SendContent, Steps
from smtpproxy.core.recording import TEMPORARY_FAILURE, Recipient
from smtpproxy.core.services import Services
from smtpproxy.mail.dkim import SigningFailed
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable

CopyMaker = Callable[[Recipient], Steps[Iterator[bytes]]]
"""Makes a recipient's copy."""

AT_ONCE = 8
"""Connections that one message may use."""

_TROUBLE_ENOUGH = 3  # failures in a row: then the others are not tried now


class Delivered(Struct, frozen=True):
    """What became of one copy.

    `for_all`: the reply is about the message or the upstream, not about the recipient.
    `to_content`: it is the upstream's reply to the content, which may yet be about the recipient.
    """

    reply: Reply
    in_doubt: bool = False  # it was sent but not answered: it may have been accepted
    for_all: bool = False
    to_content: bool = False
    again: bool = False  # the connection failed, and it was certainly not sent
    notifies: bool = True  # the upstream sends the notifications asked for

    @property
    def accepted(self) -> bool:
        return self.reply.code < 300


class PerRecipientDelivery:
    """Hands copies to the upstream. Call `deliver` once."""

    def __init__(
        self,
        services: Services,
        *,
        mail_parameters: Callable[[Recipient], MailParameters],
        make_copy: CopyMaker,
        answer_instead: Callable[[Recipient], Steps[Reply | None]],
        note_mailed: Callable[[Recipient], Steps[None]],
        report_failure: Callable[[Exception], Reply],
        reply_for_each: bool = False,
    ) -> None:
        """`make_copy` and `mail_parameters` are about one recipient's copy; `note_mailed` is called
        once the upstream has accepted it.

        `answer_instead` is called before the end of data, and returns a reply if the copy is not to
        be sent after all. `report_failure` reports an error and returns the reply to give.
        `reply_for_each`: each recipient gets its own reply (LMTP, PRDR).
        """
        self._services = services
        self._mail_parameters = mail_parameters
        self._make_copy = make_copy
        self._answer_instead = answer_instead
        self._note_mailed = note_mailed
        self._report_failure = report_failure
        self._most_refusals = _TROUBLE_ENOUGH if reply_for_each else 1
        self._trouble = 0

    def deliver(self, recipients: Sequence[Recipient]) -> Steps[list[Delivered]]:
        """Return what became of each, in order.

        Until somebody is mailed, the first failure that concerns everybody ends it; after that,
        several in a row do, as do several refusals of the content if each recipient gets its own
        reply: nobody is answered for a fault of another's copy. Those who certainly got nothing are
        tried again at the end, one by one, because the upstream may allow fewer connections.
        """
        outcomes: list[Delivered | None] = [None] * len(recipients)
        refusals = 0
        for index, recipient in enumerate(recipients):
            outcome = outcomes[index] = yield from self._one(recipient)
            if outcome.accepted:
                break
            refusals += outcome.for_all
            upstream_fails = outcome.reply.code < 500 and not outcome.to_content
            if outcome.for_all and (upstream_fails or refusals >= self._most_refusals):
                return [known or Delivered(outcome.reply) for known in outcomes]
        left = [index for index, known in enumerate(outcomes) if known is None]

        def later(index: int) -> Steps[None]:
            outcomes[index] = yield from self._later(recipients[index])

        def runs() -> Iterable[Steps[None]]:
            return (later(index) for index in left)

        if left:
            yield from RunConcurrently(runs, AT_ONCE)
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
        """Mail one recipient; try a second time if the first attempt certainly failed."""
        first = yield from self._attempt(recipient)
        return (yield from self._attempt(recipient)) if first.again else first

    def _attempt(self, recipient: Recipient) -> Steps[Delivered]:
        upstream = self._services.open_upstream(self._mail_parameters(recipient))
        try:
            copy = yield from self._make_copy(recipient)
            (reply,) = yield from AskUpstream(upstream, [recipient.rcpt])
            if reply.code >= 300:
                upstream.abort()
                return Delivered(reply)
            refusal = yield from BeginData(upstream)
            if refusal is not None:
                return Delivered(refusal, for_all=True)
            answer = yield from self._answer_instead(recipient)
            if answer is not None:
                upstream.abort()
                return Delivered(answer)
            content: Iterable[bytes] = copy
            while (sent := (yield from SendContent(upstream, content))) is None:
                answer = yield from self._answer_instead(recipient)
                if answer is not None:
                    upstream.abort()
                    return Delivered(answer)
                content = ()
            reply = sent
        except UpstreamError as error:
            reply, doubt = self._report_failure(error), upstream.in_doubt
            return Delivered(reply, in_doubt=doubt, for_all=True, again=not doubt)
        except (SigningFailed, OSError, StoreUnavailable, AuditUnavailable) as error:
            upstream.abort()
            return Delivered(self._report_failure(error), for_all=True)
        except BaseException:
            upstream.abort()
            raise
        if reply.code < 300:
            yield from self._note_mailed(recipient)
        return Delivered(reply, for_all=True, to_content=True, notifies=upstream.notifies)


FAILURES = (UpstreamError, StoreUnavailable, AuditUnavailable, SigningFailed, OSError)
"""What may fail while a message is relayed; the answer is then 451."""
