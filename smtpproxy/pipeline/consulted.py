"""One message that stays in another MTA's hands, which asks us about its recipients only.

Policy delegation: the content is never seen. A recipient is judged for good when it is asked
about, and that is on record before the answer, what is permitted too: nothing may follow.
"""

from smtpproxy.events import Client, Decided, Failed, Recipient, Relayed
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.judged import Asked, JudgedTransaction, unreadable
from smtpproxy.pipeline.parts import Parts
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.model import Action, Decision, Mode, Reason, Verdict
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable

_UNDECIDED = Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE, rule="store")


class ConsultedTransaction:
    """Judges recipients as they are asked about, any number of times; nothing has to end it.

    The stream header is not seen. While it could still choose among streams, only who is
    refused on all of them is refused, and nothing else is decided or recorded. What a stream
    leaves to the end of the message (`refuse_at`) is refused at once: there may be no other
    question. Trouble of ours is a 451 and an event for the log, never an exception.
    """

    def __init__(
        self, parts: Parts, client: Client, reverse_path: str, choice: StreamChoice
    ) -> None:
        self._parts = parts
        self._choice = choice
        self._judged = JudgedTransaction(parts, client, reverse_path, choice)
        self._observed = all(each.mode is Mode.OBSERVE for each in choice.candidates)
        self._enforced = all(each.mode is Mode.ENFORCE for each in choice.candidates)

    @property
    def id(self) -> str:
        return self._judged.id

    @property
    def permitted(self) -> int:
        """How many recipients were not refused so far; one that is asked for twice counts twice."""
        return len(self._judged.accepted)

    async def recipient(self, path: str) -> Reply | None:
        """Judge one recipient; return the refusal, or None."""
        began = self._parts.ticks()
        try:
            reply = await self._recipient(Asked(self.permitted, path, self._judged.key(path)))
        except AddressError as error:
            reply = unreadable(error)
        self._judged.spent += self._parts.ticks() - began
        return reply

    def passed(self, size: int) -> None:
        """Tell that the MTA has the whole message. What becomes of it is the MTA's to say."""
        judged, stream = self._judged, self._choice.candidates[0].name
        told = Reply.of(250, "2.0.0", "left to the MTA; its own answer is not known here")
        listener = judged.client.listener
        relayed = Relayed(judged.id, listener, stream, told.code, str(told), size, self.permitted)
        self._parts.emit(relayed)

    def ended(self) -> None:
        """Tell how long it took; the MTA is done with the message."""
        self._judged.ended()

    async def _recipient(self, asked: Asked) -> Reply | None:
        judged = self._judged
        try:
            verdict = await self._verdict(asked)
            allowed = verdict.action is Action.ALLOW
            if self._choice.certain or (self._enforced and not allowed):
                await self._record(asked, verdict)
        except (StoreUnavailable, AuditUnavailable) as error:
            return judged.failed(error, recipients=1)
        if self._enforced and not allowed:
            stream = self._choice.candidates[0].name
            return recipient_reply(asked.path, verdict, stream, judged.id)
        judged.accepted.append(asked)
        return None

    async def _verdict(self, asked: Asked) -> Verdict:
        """Raises StoreUnavailable, unless it is only observed."""
        try:
            (verdict,) = await self._judged.judgement.of_recipients([asked.key])
        except StoreUnavailable as error:
            if not self._observed:
                raise
            self._judged.failed(error)
            return _UNDECIDED
        return verdict

    async def _record(self, asked: Asked, verdict: Verdict) -> None:
        """Raises AuditUnavailable, unless it is only observed."""
        judged, stream = self._judged, self._choice.candidates[0]
        facts = judged.judgement.facts.get(asked.key)
        decided = Decided(
            id=judged.id,
            at=self._parts.now(),
            stage="rcpt",
            client=judged.client,
            reverse_path=judged.reverse_path,
            decision=Decision(stream, stream.rulebook, (verdict,)),
            recipients=(Recipient(asked.path, asked.key, verdict),),
            facts={} if facts is None else {asked.key: facts},
            observed=self._observed,
            undecided=verdict is _UNDECIDED,
            relayed=self._observed or verdict.action is Action.ALLOW,
        )
        try:
            await judged.record(decided)
        except AuditUnavailable as error:
            if not self._observed:
                raise
            self._parts.emit(Failed(judged.client.listener, "audit", f"observed: {error}"))
            self._parts.emit(decided)
