"""One message on its way to the upstream (design.md section 3)."""

from collections.abc import Iterator, Sequence
from itertools import chain

from smtpproxy.events import Client, Decided
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.mail.trace import RECEIVED_LIMIT, received
from smtpproxy.pipeline.delivery import deliver, narrowed, note_outcome, notify
from smtpproxy.pipeline.judged import Asked, Judged, JudgedTransaction, Mixed
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.relay.content import Content
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.relay.transaction import MailParameters, UpstreamTransaction
from smtpproxy.sinks.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.wire.content import stuffed, unstuffed

_LOOP = Reply.of(554, "5.4.6", f"mail loop: {RECEIVED_LIMIT} Received fields")


class MailTransaction:
    """Judges recipients as they come and the message at its end, and relays it.

    Use `recipients` any number of times, then `message` (or, where each recipient has a
    reply of its own, `message_for_each`) once; or `abort`. Trouble of ours is a 451 and an
    event for the log, never an exception.
    """

    def __init__(
        self,
        parts: Parts,
        client: Client,
        mail: MailParameters,
        choice: StreamChoice,
        protocol: str,
        mixed: Mixed | None = None,
    ) -> None:
        self._parts = parts
        self._mail = mail
        self._protocol = protocol
        self._judged = JudgedTransaction(parts, client, mail.reverse_path, choice, mixed)
        self._upstream = UpstreamTransaction(parts.upstream, mail)

    @property
    def id(self) -> str:
        return self._judged.id

    async def recipients(self, paths: Sequence[str]) -> list[Reply]:
        """Judge recipients and put the permitted ones to the upstream; one reply each."""
        began = self._parts.ticks()
        permitted, replies = await self._judged.refusals(paths)
        if permitted:
            await self._put_upstream(permitted, replies)
        self._judged.spent += self._parts.ticks() - began
        return [replies[index] for index in range(len(paths))]

    async def message(self, content: Content) -> Reply:
        """Judge the message and what is left of its recipients, record that, relay it."""
        return (await self._replies(content))[0]

    async def message_for_each(self, content: Content) -> list[Reply]:
        """The same; return a reply for each recipient that was accepted, in their order."""
        replies = await self._replies(content)
        return replies if len(replies) > 1 else replies * len(self._judged.accepted)

    def abort(self) -> None:
        """Give up: nothing was mailed."""
        self._upstream.abort()

    async def _put_upstream(self, asked: Sequence[Asked], replies: dict[int, Reply]) -> None:
        judged = self._judged
        start = self._parts.ticks()
        try:
            answers = await self._upstream.recipients([entry.path for entry in asked])
        except UpstreamError as error:
            answers = [judged.failed(error)] * len(asked)
        spend(judged.seconds, "upstream", self._parts.ticks() - start)
        for entry, answer in zip(asked, answers, strict=True):
            replies[entry.index] = answer
            if answer.code < 300:
                judged.accepted.append(entry)

    async def _replies(self, content: Content) -> list[Reply]:
        """One reply for all, or one for each recipient."""
        judged = self._judged
        began = self._parts.ticks()
        try:
            replies = await self._judge_and_relay(content)
        except (UpstreamError, StoreUnavailable, AuditUnavailable) as error:
            self.abort()
            replies = [judged.failed(error, recipients=len(judged.accepted), messages=1)]
            if not self._upstream.in_doubt:
                await judged.not_mailed()
        judged.spent += self._parts.ticks() - began
        judged.ended()
        return replies

    async def _judge_and_relay(self, content: Content) -> list[Reply]:
        header = content.header()
        section = unstuffed(header or b"")
        headers = HeaderBlock(section)
        if len(headers.values("Received")) >= RECEIVED_LIMIT:
            self.abort()
            return [_LOOP]
        judged = await self._judged.decide(headers if header is not None else None, content.size)
        if not judged.passes:
            self.abort()
            await self._judged.record(judged.decided)
            return [self._judged.refusal(judged)]
        outgoing = self._outgoing(judged.decided, headers, content)
        if not judged.mixed:
            return [await self._deliver(judged.decided, outgoing)]
        if self._judged.mixed == "each":
            return await self._relay_to_some(judged, outgoing)
        return [await self._relay_split(judged, section, outgoing)]

    async def _deliver(
        self, decided: Decided, outgoing: Iterator[bytes], *, recorded: bool = False
    ) -> Reply:
        seconds = self._judged.seconds
        reply = await deliver(
            self._parts, self._upstream, decided, outgoing, seconds, recorded=recorded
        )
        if reply.code >= 300:
            await self._judged.not_mailed()
        return reply

    async def _relay_to_some(self, judged: Judged, outgoing: Iterator[bytes]) -> list[Reply]:
        """Relay to the permitted; the others have their refusals for an answer."""
        await self._narrow(judged)
        reply = await self._deliver(judged.decided, outgoing)
        refused = self._refusals(judged)
        return [refused.get(entry, reply) for entry in self._judged.accepted]

    async def _relay_split(self, judged: Judged, header: bytes, outgoing: Iterator[bytes]) -> Reply:
        """Relay to the permitted only. The sender's notice goes first: once a recipient
        is mailed, nothing may keep the sender from learning who was not."""
        await self._narrow(judged)
        await self._judged.record(judged.decided)
        told = self._refusals(judged)
        entries = [RefusedRecipient(entry.path, told[entry]) for entry, _ in judged.refused]
        try:
            await notify(self._parts, judged.decided, entries, header)
        except UpstreamError as error:
            note_outcome(self._parts, judged.decided, error.reply, 0)
            raise
        return await self._deliver(judged.decided, outgoing, recorded=True)

    async def _narrow(self, judged: Judged) -> None:
        """Begin anew with the upstream, for the permitted alone."""
        self.abort()
        refused = {entry for entry, _ in judged.refused}
        keep = [entry.path for entry in self._judged.accepted if entry not in refused]
        self._upstream = await narrowed(self._parts, self._mail, keep)

    def _refusals(self, judged: Judged) -> dict[Asked, Reply]:
        stream = judged.decided.decision.stream.name
        return {
            entry: recipient_reply(entry.path, verdict, stream, self.id)
            for entry, verdict in judged.refused
        }

    def _outgoing(
        self, decided: Decided, headers: HeaderBlock, content: Content
    ) -> Iterator[bytes]:
        """The content with its edits: a Received field in, the stream header out.

        What needs no edit goes on as it came, octet for octet.
        """
        accepted, client = self._judged.accepted, self._judged.client
        trace = received(
            helo=client.helo,
            peer=client.peer,
            hostname=self._parts.hostname,
            protocol=self._protocol,
            id=self.id,
            at=decided.at,
            recipient=accepted[0].path if len(accepted) == 1 else None,
        )
        if decided.features is None or not decided.features.stream_header:
            return chain((trace,), content.pieces())
        header = stuffed(headers.without(self._parts.stream_header))
        return chain((trace + header,), content.pieces(skip=len(content.header() or b"")))
