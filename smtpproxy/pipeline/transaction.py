"""One message on its way, whichever intake it came through (design.md section 3)."""

from collections.abc import Iterator, Sequence
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.events import Client, Decided, Failed, Part, Recipient, Stage, TransactionEnded
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.mail.trace import RECEIVED_LIMIT, received
from smtpproxy.pipeline.delivery import deliver, narrowed, note_outcome, notify
from smtpproxy.pipeline.judgement import Judgement
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.features import read_features, read_identity
from smtpproxy.policy.model import Action, Decision, MessageFeatures, Mode, Reason, Verdict
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.relay.content import HEADER_LIMIT, Content
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.relay.transaction import MailParameters, UpstreamTransaction
from smtpproxy.sinks.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.wire.content import stuffed, unstuffed

TEMPORARY_FAILURE = Reply.of(451, "4.3.0", "temporary_failure")
_LOOP = Reply.of(554, "5.4.6", f"mail loop: {RECEIVED_LIMIT} Received fields")
_BAD_ADDRESS = Reply.of(553, "5.1.3", "recipient address cannot be read")
_HEADER_TOO_LONG = MessageFeatures(malformed=f"header section is longer than {HEADER_LIMIT} bytes")


class _Asked(Struct, frozen=True):
    """A recipient as asked for: `index` is its place among the replies that are due."""

    index: int
    path: str
    key: str  # canonical


class MailTransaction:
    """Judges recipients as they come and the message at its end, and relays it.

    Use `recipients` any number of times, then `message` once; or `abort`. Trouble of
    ours is a 451 and an event for the log, never an exception.
    """

    def __init__(
        self,
        parts: Parts,
        client: Client,
        mail: MailParameters,
        choice: StreamChoice,
        protocol: str,
    ) -> None:
        self.id = parts.new_id()
        self._parts = parts
        self._client = client
        self._mail = mail
        self._choice = choice
        self._protocol = protocol
        self._seconds: dict[Stage, float] = {}
        self._judgement = Judgement(parts, choice, self._seconds)
        self._upstream = UpstreamTransaction(parts.upstream, mail)
        self._accepted: list[_Asked] = []
        self._spent = 0.0

    async def recipients(self, paths: Sequence[str]) -> list[Reply]:
        """Judge recipients and put the permitted ones to the upstream; one reply each."""
        began = self._parts.ticks()
        replies: dict[int, Reply] = {}
        asked = []
        for index, path in enumerate(paths):
            try:
                asked.append(_Asked(index, path, self._canonical(path)))
            except AddressError:
                replies[index] = _BAD_ADDRESS
        try:
            await self._refuse(asked, replies)
        except (StoreUnavailable, AuditUnavailable) as error:
            enforcing = self._judgement.enforcing
            failure = self._failed(error, recipients=len(asked) if enforcing else 0)
            if enforcing:
                replies.update({entry.index: failure for entry in asked})
        permitted = [entry for entry in asked if entry.index not in replies]
        if permitted:
            await self._put_upstream(permitted, replies)
        self._spent += self._parts.ticks() - began
        return [replies[index] for index in range(len(paths))]

    async def message(self, content: Content) -> Reply:
        """Judge the message and what is left of its recipients, record that, relay it."""
        parts = self._parts
        began = parts.ticks()
        try:
            reply = await self._judge_and_relay(content)
        except (UpstreamError, StoreUnavailable, AuditUnavailable) as error:
            self.abort()
            reply = self._failed(error, recipients=len(self._accepted), messages=1)
        self._spent += parts.ticks() - began
        stages = tuple(self._seconds.items())
        parts.emit(TransactionEnded(self._client.listener, self._spent, stages))
        return reply

    def abort(self) -> None:
        """Give up: nothing was mailed."""
        self._upstream.abort()

    def _canonical(self, path: str) -> str:
        return canonical(path if "@" in path else f"{path}@{self._parts.hostname}")

    def _failed(self, error: Exception, *, recipients: int = 0, messages: int = 0) -> Reply:
        """Tell of trouble; what could not be decided for it is counted as deferred by us."""
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {cause}"
        listener = self._client.listener
        if isinstance(error, UpstreamError):
            self._parts.emit(Failed(listener, "upstream", text))
            return error.reply
        part: Part = "store" if isinstance(error, StoreUnavailable) else "audit"
        stream = self._choice.default.name
        self._parts.emit(Failed(listener, part, text, stream, recipients, messages))
        return TEMPORARY_FAILURE

    # recipients

    async def _refuse(self, asked: Sequence[_Asked], replies: dict[int, Reply]) -> None:
        """Judge; put the refusals on record, then into `replies`."""
        verdicts = await self._judgement.of_recipients([entry.key for entry in asked])
        if not self._judgement.enforcing:
            return
        refused = [
            (entry, verdict)
            for entry, verdict in zip(asked, verdicts, strict=True)
            if verdict.action is not Action.ALLOW
        ]
        if not refused:
            return
        stream = self._choice.candidates[0]
        facts = self._judgement.facts
        decided = Decided(
            id=self.id,
            at=self._parts.now(),
            stage="rcpt",
            client=self._client,
            reverse_path=self._mail.reverse_path,
            decision=Decision(stream, stream.rulebook, tuple(verdict for _, verdict in refused)),
            recipients=tuple(Recipient(e.path, e.key, verdict) for e, verdict in refused),
            facts={entry.key: facts[entry.key] for entry, _ in refused},
        )
        await self._parts.audit.commit(decided)
        self._parts.emit(decided)
        for entry, verdict in refused:
            replies[entry.index] = recipient_reply(entry.path, verdict, stream.name, self.id)

    async def _put_upstream(self, asked: Sequence[_Asked], replies: dict[int, Reply]) -> None:
        start = self._parts.ticks()
        try:
            answers = await self._upstream.recipients([entry.path for entry in asked])
        except UpstreamError as error:
            answers = [self._failed(error)] * len(asked)
        spend(self._seconds, "upstream", self._parts.ticks() - start)
        for entry, answer in zip(asked, answers, strict=True):
            replies[entry.index] = answer
            if answer.code < 300:
                self._accepted.append(entry)

    # the message

    async def _judge_and_relay(self, content: Content) -> Reply:
        header = content.header()
        section = unstuffed(header or b"")
        headers = HeaderBlock(section)
        features = _HEADER_TOO_LONG
        if header is not None:
            parts = self._parts
            features = read_features(headers, parts.stream_header, parts.source_header)
        if len(headers.values("Received")) >= RECEIVED_LIMIT:
            self.abort()
            return _LOOP
        decision = self._judgement.of_message([e.key for e in self._accepted], features)
        refused = [
            (entry, verdict)
            for entry, verdict in zip(self._accepted, decision.recipients, strict=True)
            if verdict.action is not Action.ALLOW
        ]
        observed = decision.stream.mode is Mode.OBSERVE
        passes = observed or (_allowed(decision) and (not refused or self._splits(refused)))
        if not passes and _allowed(decision):
            verdict = Verdict(_worst(refused), Reason.RECIPIENTS_REFUSED, rule="on_mixed")
            decision = replace(decision, message=verdict)
        decided = self._decided(decision, headers, features, content.size, passes)
        if not passes:
            self.abort()
            await self._parts.audit.commit(decided)
            self._parts.emit(decided)
            return self._refusal(decided, refused)
        outgoing = self._outgoing(decided, headers, content)
        if refused and not observed:
            return await self._relay_split(decided, refused, section, outgoing)
        return await deliver(self._parts, self._upstream, decided, outgoing, self._seconds)

    def _splits(self, refused: Sequence[tuple[_Asked, Verdict]]) -> bool:
        """Whether the permitted are mailed and the sender is told about the others."""
        return (
            self._parts.on_mixed == "split"
            and len(refused) < len(self._accepted)
            and self._mail.reverse_path != ""
            and all(verdict.action is Action.REFUSE for _, verdict in refused)
        )

    async def _relay_split(
        self,
        decided: Decided,
        refused: Sequence[tuple[_Asked, Verdict]],
        header: bytes,
        outgoing: Iterator[bytes],
    ) -> Reply:
        """Relay to the permitted only. The sender's notice goes first: once a recipient
        is mailed, nothing may keep the sender from learning who was not."""
        self.abort()
        keep = [entry.path for entry in self._accepted if entry not in [e for e, _ in refused]]
        self._upstream = await narrowed(self._parts, self._mail, keep)
        await self._parts.audit.commit(decided)
        self._parts.emit(decided)
        stream = decided.decision.stream.name
        entries = [
            RefusedRecipient(entry.path, recipient_reply(entry.path, verdict, stream, self.id))
            for entry, verdict in refused
        ]
        try:
            await notify(self._parts, decided, entries, header)
        except UpstreamError as error:
            note_outcome(self._parts, decided, error.reply, 0)
            raise
        return await deliver(
            self._parts, self._upstream, decided, outgoing, self._seconds, recorded=True
        )

    def _decided(
        self,
        decision: Decision,
        headers: HeaderBlock,
        features: MessageFeatures,
        size: int,
        passes: bool,
    ) -> Decided:
        identity = read_identity(headers)
        pairs = zip(self._accepted, decision.recipients, strict=True)
        recipients = tuple(Recipient(entry.path, entry.key, verdict) for entry, verdict in pairs)
        return Decided(
            id=self.id,
            at=self._parts.now(),
            stage="data",
            client=self._client,
            reverse_path=self._mail.reverse_path,
            decision=decision,
            recipients=recipients,
            facts=self._judgement.facts,
            features=features,
            observed=decision.stream.mode is Mode.OBSERVE,
            undecided=any(r.verdict.reason is Reason.TEMPORARY_FAILURE for r in recipients),
            message_id=identity.message_id,
            subject=identity.subject,
            header_from=identity.header_from,
            size=size,
            relayed=passes,
        )

    def _refusal(self, decided: Decided, refused: Sequence[tuple[_Asked, Verdict]]) -> Reply:
        stream = decided.decision.stream.name
        verdict = decided.decision.message
        if verdict is not None and verdict.reason is not Reason.RECIPIENTS_REFUSED:
            return message_reply(verdict, stream, self.id)
        named = [(entry.path, verdict) for entry, verdict in refused]
        if len(named) == 1:
            return recipient_reply(*named[0], stream, self.id)
        return recipients_reply(named, stream, self.id)

    def _outgoing(
        self, decided: Decided, headers: HeaderBlock, content: Content
    ) -> Iterator[bytes]:
        """The content with its edits: a Received field in, the stream header out.

        What needs no edit goes on as it came, octet for octet.
        """
        trace = received(
            helo=self._client.helo,
            peer=self._client.peer,
            hostname=self._parts.hostname,
            protocol=self._protocol,
            id=self.id,
            at=decided.at,
            recipient=self._accepted[0].path if len(self._accepted) == 1 else None,
        )
        if decided.features is None or not decided.features.stream_header:
            return chain((trace,), content.pieces())
        header = stuffed(headers.without(self._parts.stream_header))
        return chain((trace + header,), content.pieces(skip=len(content.header() or b"")))


def _allowed(decision: Decision) -> bool:
    return decision.message is None or decision.message.action is Action.ALLOW


def _worst(refused: Sequence[tuple[_Asked, Verdict]]) -> Action:
    """Refusals come before deferrals, so that nobody retries the impossible."""
    actions = {verdict.action for _, verdict in refused}
    return Action.REFUSE if Action.REFUSE in actions else Action.DEFER
