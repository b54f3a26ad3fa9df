"""One message that another MTA keeps, and asks us what to do with.

Over milter it is judged like a relayed message, and only the result differs: the upstream gets
nothing but the notice about deleted recipients. Policy delegation never shows the content: the
verdict on each recipient is final when the MTA asks, and even a permission is on record before the
answer, because no other question may follow.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.content_checks import Message, reads_body
from smtpproxy.core.edits import plain_list_unsubscribe
from smtpproxy.core.effects import Steps, StoreVersion
from smtpproxy.core.evaluation import UNDECIDED
from smtpproxy.core.notices import NotifyingTransaction
from smtpproxy.core.recording import (
    Outcome,
    Recipient,
    Refused,
    refusal_of,
    refused_as_a_whole,
    unreadable_reply,
)
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.core.transaction import CHANGES_TOO_FAST, MAX_RECHECKS, Transaction
from smtpproxy.events import Client, Relayed
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.decide import choose_stream
from smtpproxy.policy.features import read_features
from smtpproxy.policy.model import Action, Decision, Mode, Verdict
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.content import Body
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt

_NOBODY = Reply.of(554, "5.5.1", "no valid recipients")


class Advice(Struct, frozen=True):
    """What the MTA is to do with a message: refuse it with `reply`, or go on with it. Then it
    deletes recipients (as the client named them) and the first `stream_headers` fields of the
    stream header, and sets List-Unsubscribe to `unsubscribe`, unless that is None."""

    reply: Reply | None = None
    deleted: tuple[str, ...] = ()
    stream_headers: int = 0
    unsubscribe: bytes | None = None


class MilterTransaction(NotifyingTransaction):
    """Judges recipients as they come and the message at its end.

    Call `recipient` any number of times, then `message` once, or drop it. An internal failure is a
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
        """`refuses_at_rcpt`: otherwise nobody is refused before the end of the message.
        `can_delete`: recipients may be deleted at the end; see `keep_together`."""
        super().__init__(services, client, reverse_path, choice, None if can_delete else "refuse")
        self.refuses_at_rcpt = refuses_at_rcpt
        self._unreadable: Reply | None = None

    @property
    def recipients(self) -> int:
        """How many recipients may be mailed so far."""
        return len(self.recipients_accepted)

    def keep_together(self) -> None:
        """Refuse all if one is refused, because the MTA may not be able to delete a recipient."""
        self._mixed = "refuse"

    def reads_body(self, header: bytes) -> bool:
        """Whether judging the message needs its body.

        `header` is the header section with its empty line.
        """
        headers, services, choice = HeaderBlock(header), self._services, self._choice
        features = read_features(headers, services.stream_header, services.source_header)
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        return not isinstance(stream, Verdict) and reads_body(stream, headers)

    def recipient(self, path: str) -> Steps[Reply | None]:
        """Judge one recipient; return the refusal, or None."""
        self._resume()
        permitted, replies = yield from self._judge_rcpts([Rcpt(path)], early=self.refuses_at_rcpt)
        self.recipients_accepted += permitted
        self._pause()
        return replies[0] and self.refuse_unreadable(replies[0])

    def refuse_unreadable(self, reply: Reply, *, at_end: bool = False) -> Reply | None:
        """Refuse a recipient that is not an address, and with `at_end` the whole message too.

        Returns the refusal if it can be given now, at RCPT.
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
        """Judge the message and its remaining recipients, and record the decision.

        `header` is the header section with its empty line, `size` the octets of the whole message,
        and `text` the beginning of its body if `reads_body`. An MTA that has gone never gets the
        answer: its client will try again.
        """
        self._resume()
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
        self._pause()
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
        for _ in range(MAX_RECHECKS):
            done = yield from self._carry_out(outcome, headers, count)
            if not isinstance(done, Outcome):
                return done
            outcome = done  # by the store as it is now
        raise StoreUnavailable(CHANGES_TOO_FAST)

    def _carry_out(
        self, outcome: Outcome, headers: HeaderBlock, count: int
    ) -> Steps[Advice | Outcome]:
        """Carry out an outcome; return a new one if the store has changed."""
        if not outcome.passes:
            yield from self._not_mailed()
            yield from self._refresh([r.canonical for r in self.recipients_accepted])
            yield from self._record(outcome.decided)
            return Advice(outcome.refusal)
        plain = plain_list_unsubscribe(outcome.decided, headers)
        if not outcome.mixed:
            changed = yield from self._recheck_and_record(outcome)
            if changed is not None:
                return changed
            yield from self._left_to_the_mta(self.recipients)
            return Advice(None, (), count, plain)
        # The sender is told first: once the MTA mails the others, it may be too late.
        changed = yield from self._notify_refused(outcome, headers.raw)
        if changed is None:
            changed = yield from self._recheck_recorded(outcome)
        if changed is not None:
            return changed
        yield from self._left_to_the_mta(self.recipients - len(outcome.refused))
        deleted = tuple(dict.fromkeys(recipient.path for recipient, _ in outcome.refused))
        return Advice(None, deleted, count, plain)

    def _left_to_the_mta(self, recipients: int) -> Steps[None]:
        """Record that the MTA has the message; it does not tell us what becomes of it."""
        name = f" as {self.client.queue_id}" if self.client.queue_id else ""
        text = f"left to the MTA{name}; its own answer is not known here"
        yield from self._note_outcome(Reply.of(250, "2.0.0", text), recipients)


class DelegatedTransaction(Transaction):
    """Judges recipients as the MTA asks about them, any number of times; nothing has to end it.

    It never sees the stream header. If that could still choose among streams, only recipients
    refused on all of them are refused, and nothing else is decided or recorded. A refusal that a
    stream would leave to the end of the message (`refuse_at`) is given at once, because no other
    question may follow. An internal failure is a 451 and an event for the log, never an exception.
    """

    def __init__(
        self, services: Services, client: Client, reverse_path: str, choice: StreamChoice
    ) -> None:
        super().__init__(services, client, reverse_path, choice)
        self._bases: list[str] = []  # of the permissions on record, in order
        self._observed = all(each.mode is Mode.OBSERVE for each in choice.candidates)
        self._enforced = all(each.mode is Mode.ENFORCE for each in choice.candidates)

    @property
    def permitted(self) -> int:
        """How many recipients were not refused so far; one named twice counts twice."""
        return len(self.recipients_accepted)

    def recipient(self, path: str) -> Steps[Reply | None]:
        """Judge one recipient; return the refusal, or None."""
        self._resume()
        reply: Reply | None
        try:
            asked = Recipient(Rcpt(path), self.canonical(path))
            reply = yield from self._recipient(asked)
        except AddressError as error:
            reply = unreadable_reply(error)
        finally:
            self._pause()  # after an internal failure too: its time is reported all the same
        return reply

    def still_permitted(self) -> Steps[Reply | None]:
        """Look again when the MTA asks about the whole message; return the refusal, or None.

        If the store no longer permits a recipient that it permitted at RCPT, the message is refused
        for everybody, since there is one answer for all.
        """
        self._resume()
        try:
            return (yield from self._recheck_all())
        except (StoreUnavailable, AuditUnavailable) as error:
            return self._failed(error, recipients=self.permitted, messages=1)
        finally:
            self._pause()

    def passed(self, size: int) -> None:
        """Report that the MTA has the whole message; what becomes of it is not known here."""
        stream = self._choice.candidates[0].name
        reply = Reply.of(250, "2.0.0", "left to the MTA; its own answer is not known here")
        listener = self.client.listener
        relayed = Relayed(self.id, listener, stream, reply.code, str(reply), size, self.permitted)
        self._services.emit(relayed)

    def ended(self) -> None:
        """Report how long it took: the MTA has finished with the message."""
        self._ended()

    def _recipient(self, asked: Recipient) -> Steps[Reply | None]:
        try:
            verdict = yield from self._verdict(asked)
            allowed = verdict.action is Action.ALLOW
            if self._choice.certain or (self._enforced and not allowed):
                yield from self._record_judged([(asked, verdict)])
                if allowed and self._enforced and self._services.record_waits:
                    verdict = yield from self._recheck_after_wait(asked, verdict)
                    allowed = verdict.action is Action.ALLOW
        except (StoreUnavailable, AuditUnavailable) as error:
            return self._failed(error, recipients=1)
        if self._enforced and not allowed:
            return self._recipient_reply(asked, verdict)
        self.recipients_accepted.append(asked)
        self._bases.append(verdict.basis or "")
        return None

    def _verdict(self, asked: Recipient) -> Steps[Verdict]:
        """Judge one recipient. Raises StoreUnavailable, unless it is only observed.

        The state of the store is asked for first: nothing later may check for a pause.
        """
        try:
            yield from StoreVersion()
            (verdict,) = yield from self._read_and_judge([asked.canonical])
        except StoreUnavailable as error:
            if not self._observed:
                raise
            self._failed(error)
            return UNDECIDED
        if asked.canonical in self._evaluation.limited and self._choice.certain:
            verdict = yield from self._counted_for(asked.canonical, verdict)
        return verdict

    def _counted_for(self, address: str, verdict: Verdict) -> Steps[Verdict]:
        """The verdict once the mail is counted for somebody who has limited how much they get.

        Whether the MTA accepts it in the end is unknown: this errs towards too little mail.
        """
        if (yield from self._count(self._choice.candidates[0], [address], [verdict])):
            (verdict,) = self._evaluation.judge_at_rcpt([address], self._services.now())
            if verdict.action is not Action.ALLOW:
                yield from self._not_mailed([address])
        return verdict

    def _recheck_after_wait(self, asked: Recipient, before: Verdict) -> Steps[Verdict]:
        """The verdict after the wait for the disk, since this may be the last question."""
        yield from self._refresh([asked.canonical])
        now = self._services.now()
        (verdict,) = self._evaluation.judge_at_rcpt([asked.canonical], now)
        if verdict.action is not Action.ALLOW:
            yield from self._record_judged([(asked, verdict)], None, [before.basis or ""])
        return verdict

    def _recheck_all(self) -> Steps[Reply | None]:
        if not self._enforced:
            return None
        addresses = [recipient.canonical for recipient in self.recipients_accepted]
        yield from self._refresh(addresses)  # verdicts may be older than the facts
        verdicts = self._evaluation.judge_at_rcpt(addresses, self._services.now())
        judged = list(zip(self.recipients_accepted, verdicts, strict=True))
        refused = [(r, verdict) for r, verdict in judged if verdict.action is not Action.ALLOW]
        if not refused:
            return None
        yield from self._not_mailed()
        before = self._bases if self._choice.certain else ()
        yield from self._record_judged(judged, refused_as_a_whole(refused), before)
        stream = self._choice.candidates[0].name
        return refusal_of(refused, stream, self.id, self._services.help_url)

    def _record_judged(
        self,
        judged: Sequence[Refused],
        message: Verdict | None = None,
        before: Sequence[str] = (),
    ) -> Steps[None]:
        """Record the verdicts; `before` has the bases of the permissions on record so far.

        Raises AuditUnavailable, unless it is only observed.
        """
        stream, facts = self._choice.candidates[0], self._evaluation.facts
        verdicts = tuple(verdict for _, verdict in judged)
        people = [recipient for recipient, _ in judged]
        passes = self._observed or all(verdict.action is Action.ALLOW for verdict in verdicts)
        decided = self._decision(
            "rcpt",
            self._services.now(),
            Decision(stream, stream.rulebook, verdicts, message),
            people,
            {r.canonical: facts[r.canonical] for r in people if r.canonical in facts},
            observed=self._observed,
            relayed=message is None and passes,
        )
        yield from self._record_passing(replace(decided, permitted_before=tuple(before)))
