"""One message that stays in another MTA's hands, which asks us what to do with it (milter).

Judged like a relayed message; only what follows from it differs: nothing is put to the upstream
but the notice about recipients that are taken away.
"""

from collections.abc import Callable
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.content_checks import Message, reads_text
from smtpproxy.core.edits import plain_list_unsubscribe
from smtpproxy.core.effects import Steps
from smtpproxy.core.notices import NotifyingTransaction
from smtpproxy.core.recording import Outcome
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import Client
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.decide import choose_stream
from smtpproxy.policy.features import read_features
from smtpproxy.policy.model import Verdict
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.content import Body
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.wire.commands import Rcpt

_NOBODY = Reply.of(554, "5.5.1", "no valid recipients")


class Advice(Struct, frozen=True):
    """What the MTA is to do with a message: refuse it by `reply`, or go on with it less
    some recipients (as the client gave them) and the first fields of the stream header, and
    with `unsubscribe` for the value of List-Unsubscribe, where that is not None."""

    reply: Reply | None = None
    deleted: tuple[str, ...] = ()
    stream_headers: int = 0
    unsubscribe: bytes | None = None


class MilterTransaction(NotifyingTransaction):
    """Judges recipients as they come and the message at its end.

    Use `recipient` any number of times, then `message` once; or drop it. An internal failure is a
    451 and an event for the log, never an exception.
    """

    def __init__(
        self,
        services: Services,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        *,
        refuses_at_rcpt: bool,
        can_delete: bool,
    ) -> None:
        """`refuses_at_rcpt`: else nobody is refused before the end of the message.
        `can_delete`: recipients may be taken away then; see `keep_together`."""
        super().__init__(services, client, reverse_path, choice, None if can_delete else "refuse")
        self.refuses_at_rcpt = refuses_at_rcpt
        self._unreadable: Reply | None = None

    @property
    def recipients(self) -> int:
        """How many may be mailed so far."""
        return len(self.recipients_accepted)

    def keep_together(self) -> None:
        """A recipient cannot be taken away for sure: to refuse one means to refuse all."""
        self._mixed = "refuse"

    def reads_text(self, header: bytes) -> bool:
        """Whether the text of the message is looked at.

        `header` is the header section with its empty line.
        """
        headers, services, choice = HeaderBlock(header), self._services, self._choice
        features = read_features(headers, services.stream_header, services.source_header)
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        return not isinstance(stream, Verdict) and reads_text(stream, headers)

    def recipient(self, path: str) -> Steps[Reply | None]:
        """Judge one recipient; return the refusal, or None."""
        began = self._services.ticks()
        permitted, replies = yield from self._judge_rcpts([Rcpt(path)], early=self.refuses_at_rcpt)
        self.recipients_accepted += permitted
        self._spent += self._services.ticks() - began
        return replies[0] and self.unreadable(replies[0])

    def unreadable(self, reply: Reply, *, at_end: bool = False) -> Reply | None:
        """Refuse a recipient that is no address, or with `at_end` the whole message as well.

        Returns the refusal where it can be told now.
        """
        if at_end or not self.refuses_at_rcpt:
            self._unreadable = self._unreadable or reply
        return reply if self.refuses_at_rcpt else None

    def message(
        self,
        header: bytes,
        size: int,
        queue_id: str,
        text: Body | None = None,
        mta_is_there: Callable[[], bool] = lambda: True,
    ) -> Steps[Advice]:
        """Judge the message and what is left of its recipients, and record that.

        `header` is the header section with its empty line, `size` octets are the whole message,
        and `text` is the beginning of its body where `reads_text`. An MTA that is not there any
        more never hears the answer: its client will try again.
        """
        began = self._services.ticks()
        if queue_id:
            self.client = replace(self.client, queue_id=queue_id)
        self._digest = lambda: blake2b(b"%d %b" % (size, header)).digest()
        try:
            advice = yield from self._advise(header, size, text)
        except (UpstreamError, StoreUnavailable, AuditUnavailable) as error:
            advice = Advice(self._failed(error, recipients=self.recipients, messages=1))
            yield from self._not_mailed()
        if advice.reply is not None:
            yield from self._note_outcome(advice.reply)
        if mta_is_there() and (advice.reply is None or advice.reply.code >= 500):
            yield from self._forget()
        self._spent += self._services.ticks() - began
        self._ended()
        return advice

    def _advise(self, header: bytes, size: int, text: Body | None) -> Steps[Advice]:
        if self._unreadable is not None:
            return Advice(self._unreadable)
        if not self.recipients:
            return Advice(_NOBODY)
        headers = HeaderBlock(header)
        outcome = yield from self._decide(Message(headers, size, None, text))
        count = headers.count(self._services.stream_header)
        return (
            yield from self._while_changing(
                outcome, lambda current: self._carry_out(current, headers, count)
            )
        )

    def _carry_out(
        self, outcome: Outcome, headers: HeaderBlock, count: int
    ) -> Steps[Advice | Outcome]:
        """Do what follows from an outcome; return another one when the store has changed."""
        if not outcome.passes:
            yield from self._not_mailed()
            yield from self._refresh([r.canonical for r in self.recipients_accepted])
            yield from self._record(outcome.decided)
            return Advice(outcome.refusal)
        plain = plain_list_unsubscribe(outcome.decided, headers)
        if not outcome.mixed:
            changed = yield from self._settle(outcome)
            if changed is not None:
                return changed
            yield from self._left_to_the_mta(self.recipients)
            return Advice(None, (), count, plain)
        # The sender is told first: once the MTA mails the others, nothing may prevent it.
        changed = yield from self._notify_refused(outcome, headers.without(""))
        if changed is None:
            changed = yield from self._look_again(outcome)
        if changed is not None:
            return changed
        yield from self._left_to_the_mta(self.recipients - len(outcome.refused))
        deleted = tuple(dict.fromkeys(recipient.path for recipient, _ in outcome.refused))
        return Advice(None, deleted, count, plain)

    def _left_to_the_mta(self, recipients: int) -> Steps[None]:
        """What becomes of the message now is the MTA's to say, and it does not tell us."""
        name = f" as {self.client.queue_id}" if self.client.queue_id else ""
        text = f"left to the MTA{name}; its own answer is not known here"
        yield from self._note_outcome(Reply.of(250, "2.0.0", text), recipients)
