"""One message that stays in another MTA's hands, which asks us what to do with it (milter).

The same judgement as a relayed message has; only what follows from it differs: nothing is
put to the upstream but the notice about recipients that are taken away.
"""

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.events import Client, Decided, Failed
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.delivery import note_outcome, notify
from smtpproxy.pipeline.edits import plain_way_out
from smtpproxy.pipeline.judged import Judged, JudgedTransaction
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.relay.content import Body
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable

_NOBODY = Reply.of(554, "5.5.1", "no valid recipients")


class Advice(Struct, frozen=True):
    """What the MTA is to do with a message: refuse it by `reply`, or go on with it less
    some recipients (as the client gave them) and the first fields of the stream header, and
    with `unsubscribe` for the value of List-Unsubscribe, where that is not None."""

    reply: Reply | None = None
    deleted: tuple[str, ...] = ()
    stream_headers: int = 0
    unsubscribe: bytes | None = None


class AdvisedTransaction:
    """Judges recipients as they come and the message at its end.

    Use `recipient` any number of times, then `message` once; or drop it. Trouble of ours is
    a 451 and an event for the log, never an exception.
    """

    def __init__(
        self,
        parts: Parts,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        *,
        refuses_at_rcpt: bool,
        can_delete: bool,
    ) -> None:
        """`refuses_at_rcpt`: else nobody is refused before the end of the message.
        `can_delete`: recipients may be taken away then; see `keep_together`."""
        self._parts = parts
        self.refuses_at_rcpt = refuses_at_rcpt
        self._candidates = choice.candidates
        self._judged = JudgedTransaction(
            parts, client, reverse_path, choice, None if can_delete else "refuse"
        )
        self._unreadable: Reply | None = None

    @property
    def id(self) -> str:
        return self._judged.id

    @property
    def recipients(self) -> int:
        """How many may be mailed so far."""
        return len(self._judged.accepted)

    def keep_together(self) -> None:
        """A recipient cannot be taken away for sure: to refuse one means to refuse all."""
        self._judged.mixed = "refuse"

    async def recipient(self, path: str) -> Reply | None:
        """Judge one recipient; return the refusal, or None."""
        began = self._parts.ticks()
        judged = self._judged
        permitted, replies = await judged.refusals([path], now=self.refuses_at_rcpt)
        judged.accepted += permitted
        judged.spent += self._parts.ticks() - began
        reply = replies.get(0)
        return reply and self.unreadable(reply)

    def unreadable(self, reply: Reply, *, at_end: bool = False) -> Reply | None:
        """Refuse a recipient that is no address, or with `at_end` the whole message as well.

        Returns the refusal where it can be told now.
        """
        if at_end or not self.refuses_at_rcpt:
            self._unreadable = self._unreadable or reply
        return reply if self.refuses_at_rcpt else None

    @property
    def reads_text(self) -> bool:
        """Whether a stream that it may be on asks for the text of the message."""
        return any(stream.reads_text for stream in self._candidates)

    async def message(
        self, header: bytes, size: int, queue_id: str, text: Body | None = None
    ) -> Advice:
        """Judge the message and what is left of its recipients, and record that.

        `header` is the header section with its empty line, `size` octets are the whole message,
        and `text` is the beginning of its body where `reads_text`.
        """
        began = self._parts.ticks()
        judged = self._judged
        if queue_id:
            judged.client = replace(judged.client, queue_id=queue_id)
        try:
            advice = await self._advise(header, size, text)
        except (UpstreamError, StoreUnavailable, AuditUnavailable) as error:
            reply = judged.failed(error, recipients=self.recipients, messages=1)
            advice = Advice(reply)
            await judged.not_mailed()
        judged.spent += self._parts.ticks() - began
        judged.ended()
        return advice

    async def _advise(self, header: bytes, size: int, text: Body | None) -> Advice:
        if self._unreadable is not None:
            return Advice(self._unreadable)
        if not self.recipients:
            return Advice(_NOBODY)
        headers = HeaderBlock(header)
        judged = await self._judged.decide(headers, size, text=text)
        decided = judged.decided
        if not judged.passes:
            await self._judged.record(decided)
            return Advice(self._judged.refusal(judged))
        count = len(headers.values(self._parts.stream_header))
        plain = plain_way_out(decided, headers)
        if judged.mixed:
            deleted = await self._split(judged, header)
            return Advice(None, deleted, count, plain)
        await self._record(decided)
        self._told(decided, self.recipients)
        return Advice(None, (), count, plain)

    async def _record(self, decided: Decided) -> None:
        """Put on record what passes. Raises AuditUnavailable, unless it is only observed."""
        start = self._parts.ticks()
        try:
            await self._parts.audit.commit(decided)
        except AuditUnavailable as error:
            if not decided.observed:
                raise
            self._parts.emit(Failed(decided.client.listener, "audit", f"observed: {error}"))
        self._parts.emit(decided)
        spend(self._judged.seconds, "audit", self._parts.ticks() - start)

    async def _split(self, judged: Judged, header: bytes) -> tuple[str, ...]:
        """Have the refused taken away. The sender's notice goes first: once the MTA mails
        the others, nothing may keep the sender from learning who was not mailed."""
        decided = judged.decided
        await self._record(decided)
        stream = decided.decision.stream.name
        told = [
            RefusedRecipient(entry.path, recipient_reply(entry.path, verdict, stream, self.id))
            for entry, verdict in judged.refused
        ]
        start = self._parts.ticks()
        try:
            await notify(self._parts, decided, told, header)
        except UpstreamError as error:
            note_outcome(self._parts, decided, error.reply, 0)
            raise
        finally:
            spend(self._judged.seconds, "upstream", self._parts.ticks() - start)
        self._told(decided, self.recipients - len(told))
        return tuple(dict.fromkeys(entry.address for entry in told))

    def _told(self, decided: Decided, recipients: int) -> None:
        """What becomes of the message now is the MTA's to say, and it does not tell us."""
        name = f" as {decided.client.queue_id}" if decided.client.queue_id else ""
        text = f"left to the MTA{name}; its own answer is not known here"
        note_outcome(self._parts, decided, Reply.of(250, "2.0.0", text), recipients)
