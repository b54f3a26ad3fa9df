"""One message that stays in another MTA's hands, which asks us about its recipients only.

Policy delegation: the content is never seen. A recipient is judged for good when it is asked
about, and that is on record before the answer, what is permitted too: nothing may follow.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from smtpproxy.core.effects import Steps
from smtpproxy.core.evaluation import UNDECIDED
from smtpproxy.core.recording import Recipient, Refused, refusal_of, refused_as_a_whole, unreadable
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.core.transaction import Transaction
from smtpproxy.events import Client, Relayed
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import Action, Decision, Mode, Verdict
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.wire.commands import Rcpt


class DelegatedTransaction(Transaction):
    """Judges recipients as they are asked about, any number of times; nothing has to end it.

    The stream header is not seen. While it could still choose among streams, only who is
    refused on all of them is refused, and nothing else is decided or recorded. What a stream
    leaves to the end of the message (`refuse_at`) is refused at once: there may be no other
    question. An internal failure is a 451 and an event for the log, never an exception.
    """

    def __init__(
        self, services: Services, client: Client, reverse_path: str, choice: StreamChoice
    ) -> None:
        super().__init__(services, client, reverse_path, choice)
        self._observed = all(each.mode is Mode.OBSERVE for each in choice.candidates)
        self._enforced = all(each.mode is Mode.ENFORCE for each in choice.candidates)

    @property
    def permitted(self) -> int:
        """How many recipients were not refused so far; one that is asked for twice counts twice."""
        return len(self.recipients_accepted)

    def recipient(self, path: str) -> Steps[Reply | None]:
        """Judge one recipient; return the refusal, or None."""
        began = self._services.ticks()
        reply: Reply | None
        try:
            asked = Recipient(Rcpt(path), self.canonical(path))
            reply = yield from self._recipient(asked)
        except AddressError as error:
            reply = unreadable(error)
        self._spent += self._services.ticks() - began
        return reply

    def still_permitted(self) -> Steps[Reply | None]:
        """Look again when the MTA asks about the whole message; return the refusal, or None.

        What was permitted at RCPT is refused when the store has changed so; then the message is
        refused for everybody, since there is one answer for all.
        """
        began = self._services.ticks()
        try:
            return (yield from self._look_at_all())
        except (StoreUnavailable, AuditUnavailable) as error:
            return self._failed(error, recipients=self.permitted, messages=1)
        finally:
            self._spent += self._services.ticks() - began

    def passed(self, size: int) -> None:
        """Tell that the MTA has the whole message. What becomes of it is the MTA's to say."""
        stream = self._choice.candidates[0].name
        told = Reply.of(250, "2.0.0", "left to the MTA; its own answer is not known here")
        listener = self.client.listener
        relayed = Relayed(self.id, listener, stream, told.code, str(told), size, self.permitted)
        self._services.emit(relayed)

    def ended(self) -> None:
        """Tell how long it took; the MTA is done with the message."""
        self._ended()

    def _recipient(self, asked: Recipient) -> Steps[Reply | None]:
        try:
            verdict = yield from self._verdict(asked)
            allowed = verdict.action is Action.ALLOW
            if self._choice.certain or (self._enforced and not allowed):
                yield from self._record_judged([(asked, verdict)])
                if allowed and self._enforced and self._services.record_waits:
                    verdict = yield from self._meanwhile(asked)
                    allowed = verdict.action is Action.ALLOW
        except (StoreUnavailable, AuditUnavailable) as error:
            return self._failed(error, recipients=1)
        if self._enforced and not allowed:
            return self._recipient_reply(asked, verdict)
        self.recipients_accepted.append(asked)
        return None

    def _verdict(self, asked: Recipient) -> Steps[Verdict]:
        """Raises StoreUnavailable, unless it is only observed."""
        try:
            (verdict,) = yield from self._read_and_judge([asked.canonical])
        except StoreUnavailable as error:
            if not self._observed:
                raise
            self._failed(error)
            return UNDECIDED
        return verdict

    def _meanwhile(self, asked: Recipient) -> Steps[Verdict]:
        """The verdict after the wait for the disk: it may be the last question."""
        yield from self._refresh([asked.canonical])
        now = self._services.now()
        (verdict,) = self._evaluation.judge_at_rcpt([asked.canonical], now)
        if verdict.action is not Action.ALLOW:
            yield from self._record_judged([(asked, verdict)])
        return verdict

    def _look_at_all(self) -> Steps[Reply | None]:
        if not self._enforced:
            return None
        addresses = [recipient.canonical for recipient in self.recipients_accepted]
        yield from self._refresh(addresses)  # the verdicts may be older than the facts
        verdicts = self._evaluation.judge_at_rcpt(addresses, self._services.now())
        judged = list(zip(self.recipients_accepted, verdicts, strict=True))
        refused = [(r, verdict) for r, verdict in judged if verdict.action is not Action.ALLOW]
        if not refused:
            return None
        yield from self._record_judged(judged, refused_as_a_whole(refused))
        stream = self._choice.candidates[0].name
        return refusal_of(refused, stream, self.id)

    def _record_judged(
        self, judged: Sequence[Refused], message: Verdict | None = None
    ) -> Steps[None]:
        """Raises AuditUnavailable, unless it is only observed."""
        stream, facts = self._choice.candidates[0], self._evaluation.facts
        verdicts = tuple(verdict for _, verdict in judged)
        people = [recipient for recipient, _ in judged]
        decided = self._decision(
            "rcpt",
            Decision(stream, stream.rulebook, verdicts, message),
            people,
            {r.canonical: facts[r.canonical] for r in people if r.canonical in facts},
        )
        passes = self._observed or all(verdict.action is Action.ALLOW for verdict in verdicts)
        decided = replace(decided, observed=self._observed, relayed=message is None and passes)
        yield from self._record_passing(decided)
