"""One message on its way to the upstream (design.md section 3)."""

from collections.abc import Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from smtpproxy.events import Client, Decided, Limited
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8, needed_extensions
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.mail.trace import RECEIVED_LIMIT, received
from smtpproxy.pipeline.apart import SEVERAL_UNTOLD, Apart
from smtpproxy.pipeline.delivery import (
    deliver,
    narrowed,
    note_outcome,
    notify,
    put_on_record,
)
from smtpproxy.pipeline.edits import edited
from smtpproxy.pipeline.fan_out import Copy
from smtpproxy.pipeline.judged import Asked, Judged, JudgedTransaction, Mixed
from smtpproxy.pipeline.notices import Notices, wants_no_notice
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.replies import recipient_reply
from smtpproxy.policy.way_out import added
from smtpproxy.relay.content import Content
from smtpproxy.relay.errors import SigningFailed, UpstreamError
from smtpproxy.relay.transaction import MailParameters, UpstreamTransaction
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import unstuffed

_LOOP = Reply.of(554, "5.4.6", f"mail loop: {RECEIVED_LIMIT} Received fields")


class MailTransaction:
    """Judges recipients as they come and the message at its end, and relays it.

    Use `recipients` any number of times, then `message` once; or `abort`. Trouble of ours is
    a 451 and an event for the log, never an exception.
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
        self._envelope: list[Rcpt] = []  # of the accepted, in their order

    @property
    def id(self) -> str:
        return self._judged.id

    @property
    def accepted(self) -> int:
        """How many recipients were accepted."""
        return len(self._judged.accepted)

    async def recipients(self, asked: Sequence[Rcpt]) -> list[Reply]:
        """Judge recipients and put the permitted ones to the upstream; one reply each."""
        began = self._parts.ticks()
        permitted, replies = await self._judged.refusals([rcpt.forward_path for rcpt in asked])
        if permitted:
            await self._put_upstream(permitted, asked, replies)
        self._judged.spent += self._parts.ticks() - began
        return [replies[index] for index in range(len(asked))]

    async def message(self, content: Content) -> list[Reply]:
        """Judge the message and what is left of its recipients, record that, relay it.

        Returns a reply for each recipient that was accepted, in their order: all the same,
        but where `mixed` is "each".
        """
        replies = await self._replies(content)
        return replies if len(replies) > 1 else replies * self.accepted

    def abort(self) -> None:
        """Give up: nothing was mailed."""
        self._upstream.abort()

    async def _put_upstream(
        self, permitted: Sequence[Asked], asked: Sequence[Rcpt], replies: dict[int, Reply]
    ) -> None:
        judged = self._judged
        start = self._parts.ticks()
        try:
            answers = await self._upstream.recipients([asked[entry.index] for entry in permitted])
        except UpstreamError as error:
            answers = [judged.failed(error)] * len(permitted)
        self._upstream.leave_to_client(self._given_back)
        spend(judged.seconds, "upstream", self._parts.ticks() - start)
        for entry, answer in zip(permitted, answers, strict=True):
            replies[entry.index] = answer
            if answer.code < 300:
                judged.accepted.append(entry)
                self._envelope.append(asked[entry.index])

    def _given_back(self) -> None:
        client = self._judged.client
        self._parts.emit(Limited(client.listener, client.peer, "upstream_hold"))

    async def _replies(self, content: Content) -> list[Reply]:
        """One reply for all, or one for each recipient."""
        judged = self._judged
        began = self._parts.ticks()
        try:
            replies = await self._judge_and_relay(content)
        except (UpstreamError, StoreUnavailable, AuditUnavailable, SigningFailed) as error:
            self.abort()
            replies = [judged.failed(error, recipients=len(judged.accepted), messages=1)]
            if not self._upstream.in_doubt:
                await judged.not_mailed()
        judged.spent += self._parts.ticks() - began
        judged.ended()
        return replies

    async def _judge_and_relay(self, content: Content) -> list[Reply]:
        section = unstuffed(content.header())
        headers = HeaderBlock(section)
        if len(headers.values("Received")) >= RECEIVED_LIMIT:
            self.abort()
            return [_LOOP]
        if self._judged.mixed == "split" and any(map(wants_no_notice, self._envelope)):
            self._judged.mixed = "refuse"  # a recipient cannot be left out in silence
        judged = await self._judged.decide(headers, content.size, content.body())
        if not judged.passes:
            self.abort()
            await self._judged.record(judged.decided)
            if self._judged.mixed == "each" and judged.for_nobody:
                told = self._refusals(judged)
                return [told[entry] for entry in self._judged.accepted]
            return [self._judged.refusal(judged)]
        await self._upstream.keep()
        refusal = await self._unfit(judged, content)
        if refusal is not None:
            refused = self._refusals(judged) if self._judged.mixed == "each" else {}
            return [refused.get(entry, refusal) for entry in self._judged.accepted]
        way_out = b""
        if judged.decided.decision.stream.unsubscribe_scope is not None:
            mailed = self._with_ways_out(judged, headers)
            if len(mailed) > 1:
                return await self._relay_apart(judged, headers, content, mailed)
            way_out = mailed[0][2] if mailed else b""
        outgoing = await self._outgoing(judged.decided, headers, content, way_out)
        if not judged.mixed:
            reply = await self._deliver(judged.decided, outgoing)
            await self._tell_relayed(reply, section)
            return [reply]
        if self._judged.mixed == "each":
            return await self._relay_to_some(judged, outgoing)
        return [await self._relay_split(judged, section, outgoing)]

    async def _unfit(self, judged: Judged, content: Content) -> Reply | None:
        """Refuse, on record, content that needs an extension that the upstream lacks."""
        needs = frozenset({EIGHT_BIT, UTF8})  # what MAIL asked for, on every connection
        if not self._upstream.takes_all:
            needs = needed_extensions(content.pieces)
        self._mail = replace(self._mail, needs=needs)
        refusal = self._upstream.refusal_of(needs)
        if refusal is not None:
            self.abort()
            await put_on_record(self._parts, judged.decided)
            await self._judged.not_mailed()
            note_outcome(self._parts, judged.decided, refusal, 0)
        return refusal

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
        await self._tell_relayed(reply, b"")
        refused = self._refusals(judged)
        return [refused.get(entry, reply) for entry in self._judged.accepted]

    async def _relay_split(self, judged: Judged, header: bytes, outgoing: Iterator[bytes]) -> Reply:
        """Relay to the permitted only. The sender's notice goes first: once a recipient
        is mailed, nothing may keep the sender from learning who was not."""
        await self._narrow(judged)
        await self._notify_refused(judged, header)
        reply = await self._deliver(judged.decided, outgoing, recorded=True)
        await self._tell_relayed(reply, header)
        return reply

    async def _notify_refused(self, judged: Judged, header: bytes) -> None:
        """Put the decision on record and tell the sender who is not mailed."""
        await self._judged.record(judged.decided)
        told = self._refusals(judged)
        refused = {entry for entry, _ in judged.refused}
        entries = [
            RefusedRecipient(entry.path, told[entry], rcpt.orcpt)
            for entry, rcpt in zip(self._judged.accepted, self._envelope, strict=True)
            if entry in refused
        ]
        try:
            await notify(self._parts, judged.decided, entries, header, self._mail.envid)
        except UpstreamError as error:
            note_outcome(self._parts, judged.decided, error.reply, 0)
            raise

    async def _relay_apart(
        self,
        judged: Judged,
        headers: HeaderBlock,
        content: Content,
        mailed: Sequence[tuple[Asked, Rcpt, bytes]],
    ) -> list[Reply]:
        """Relay a message of his own to each of several recipients."""
        decided, mixed = judged.decided, self._judged.mixed
        self.abort()  # the upstream transaction that all of them are in
        header = headers.without("")
        if judged.mixed and mixed == "split":
            await self._notify_refused(judged, header)
        else:
            await put_on_record(self._parts, decided)
        untold = not self._mail.reverse_path or any(wants_no_notice(rcpt) for _, rcpt, _ in mailed)
        if mixed != "each" and untold:
            await self._judged.not_mailed()
            note_outcome(self._parts, decided, SEVERAL_UNTOLD, 0)
            return [SEVERAL_UNTOLD]
        copies = {
            entry: Copy(rcpt, partial(self._outgoing, decided, headers, content, way_out, entry))
            for entry, rcpt, way_out in mailed
        }
        apart = Apart(self._parts, self._judged, self._mail)
        reply, replies = await apart.relay(decided, copies, header)
        if mixed != "each":
            return [reply]
        told = {**self._refusals(judged), **replies}  # observed refusals were mailed all the same
        return [told[entry] for entry in self._judged.accepted]

    async def _tell_relayed(self, reply: Reply, header: bytes) -> None:
        if reply.code < 300 and not self._upstream.notifies:
            notices = Notices(self._parts, self._judged, self._mail)
            await notices.relayed(self._upstream.accepted, header)

    async def _narrow(self, judged: Judged) -> None:
        """Begin anew with the upstream, for the permitted alone."""
        self.abort()
        refused = {entry for entry, _ in judged.refused}
        pairs = zip(self._judged.accepted, self._envelope, strict=True)
        keep = [rcpt for entry, rcpt in pairs if entry not in refused]
        self._upstream = await narrowed(self._parts, self._mail, keep)

    def _refusals(self, judged: Judged) -> dict[Asked, Reply]:
        stream = judged.decided.decision.stream.name
        return {
            entry: recipient_reply(entry.path, verdict, stream, self.id)
            for entry, verdict in judged.refused
        }

    def _with_ways_out(
        self, judged: Judged, headers: HeaderBlock
    ) -> list[tuple[Asked, Rcpt, bytes]]:
        """The recipients of now with the fields that each gets, where the relay adds them.

        Else nobody. Raises StoreUnavailable.
        """
        stream, features = judged.decided.decision.stream, judged.decided.features
        if features is None or not added(stream, features):
            return []
        links = self._parts.links
        if links is None:
            raise StoreUnavailable("there are no keys for unsubscribe links")
        left_out = {entry for entry, _ in judged.refused} if judged.mixed else set()
        has_list_id = bool(headers.raw_values("List-Id"))
        return [
            (entry, rcpt, links.fields(stream, entry.key, self.id, has_list_id=has_list_id))
            for entry, rcpt in zip(self._judged.accepted, self._envelope, strict=True)
            if entry not in left_out
        ]

    async def _outgoing(
        self,
        decided: Decided,
        headers: HeaderBlock,
        content: Content,
        way_out: bytes,
        only: Asked | None = None,
    ) -> Iterator[bytes]:
        """The content with its edits. Raises SigningFailed."""
        accepted, client = self._judged.accepted, self._judged.client
        if only is None and len(accepted) == 1:
            only = accepted[0]
        trace = received(
            helo=client.helo,
            peer=client.peer,
            hostname=self._parts.hostname,
            protocol=self._protocol,
            id=self.id,
            at=decided.at,
            recipient=None if only is None else only.path,
        )
        seconds = self._judged.seconds
        return await edited(self._parts, decided, headers, content, trace, seconds, way_out)
