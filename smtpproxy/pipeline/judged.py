"""One transaction before the decision core, and what goes on record of it.

Every intake asks here. What is then done with the mail is the intake's own: the relay
puts it to the upstream, a milter tells its MTA.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.events import (
    Client,
    Decided,
    Failed,
    Limited,
    Part,
    Recipient,
    Stage,
    TransactionEnded,
)
from smtpproxy.mail.address import AddressError, AmbiguousAddress, canonical
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.closer import with_closer_look, with_own_signature
from smtpproxy.pipeline.judgement import Judgement
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.pipeline.signatures import with_signatures
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.decide import asks_for_signatures, choose_stream
from smtpproxy.policy.features import read_features, read_identity
from smtpproxy.policy.model import (
    Action,
    Decision,
    MessageFeatures,
    Mode,
    Reason,
    Stream,
    Verdict,
)
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.relay.content import Body
from smtpproxy.relay.errors import SigningFailed, UpstreamError, UpstreamShareUsed
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.protocols import StoreUnavailable

TEMPORARY_FAILURE = Reply.of(451, "4.3.0", "temporary_failure")
BAD_ADDRESS = Reply.of(553, "5.1.3", "recipient address cannot be read")
AMBIGUOUS_ADDRESS = Reply.of(
    553,
    "5.1.3",
    "recipient address may be read as too many others: write it without %, ! or quotes",
)

Mixed = Literal["refuse", "split", "each"]
"""What becomes of a message that only some may get: nobody gets it, the others get it and
the sender a notice, or each recipient has a reply of its own (LMTP, PRDR)."""


class Asked(Struct, frozen=True):
    """A recipient as asked for: `index` is its place among the replies that are due."""

    index: int
    path: str
    key: str  # canonical


Refused = tuple[Asked, Verdict]

_PARTS: dict[type[Exception], Part] = {StoreUnavailable: "store", SigningFailed: "sign"}


class Judged(Struct, frozen=True):
    """A decided message. `refused` are the recipients that it is not for, observed or not."""

    decided: Decided
    refused: tuple[Refused, ...]
    passes: bool

    @property
    def for_nobody(self) -> bool:
        """Whether the message is refused for its recipients' sake alone, each of them refused."""
        message = self.decided.decision.message
        return (
            message is not None
            and message.reason is Reason.RECIPIENTS_REFUSED
            and len(self.refused) == len(self.decided.recipients)
        )

    @property
    def mixed(self) -> bool:
        """Whether it is to go to some of its recipients only."""
        return self.passes and bool(self.refused) and not self.decided.observed


class JudgedTransaction:
    """Judges recipients as they come and the message at its end, and keeps the record.

    `accepted` are the recipients that the message is for; the intake fills it. `spent` and
    `seconds` are the time that it took, whole and by stage.
    """

    def __init__(
        self,
        parts: Parts,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        mixed: Mixed | None = None,
    ) -> None:
        self.id = parts.new_id()
        self.client = client
        self.reverse_path = reverse_path
        self.accepted: list[Asked] = []
        self.seconds: dict[Stage, float] = {}
        self.spent = 0.0
        self._parts = parts
        self._choice = choice
        self.mixed: Mixed = mixed or parts.on_mixed
        self.judgement = Judgement(parts, choice, self.seconds)

    async def refusals(
        self, paths: Sequence[str], *, now: bool = True
    ) -> tuple[list[Asked], dict[int, Reply]]:
        """Judge recipients; return the permitted, and a reply for the place of each other.

        Refusals are on record then. Trouble of ours is a reply too. Unless `now`, only what
        is no address has a reply: all else is left to the end of the message.
        """
        asked: list[Asked] = []
        replies: dict[int, Reply] = {}
        for index, path in enumerate(paths):
            try:
                asked.append(Asked(index, path, self.key(path)))
            except AddressError as error:
                replies[index] = unreadable(error)
        early = now and self.judgement.refuses_at_rcpt
        try:
            verdicts = await self.judgement.of_recipients([entry.key for entry in asked])
            if early:
                await self._refuse(asked, verdicts, replies)
        except (StoreUnavailable, AuditUnavailable) as error:
            failure = self.failed(error, recipients=len(asked) if early else 0)
            if early:
                replies.update({entry.index: failure for entry in asked})
        return [entry for entry in asked if entry.index not in replies], replies

    async def _refuse(
        self, asked: Sequence[Asked], verdicts: Sequence[Verdict], replies: dict[int, Reply]
    ) -> None:
        refused = [
            (entry, verdict)
            for entry, verdict in zip(asked, verdicts, strict=True)
            if verdict.action is not Action.ALLOW
        ]
        if not refused:
            return
        stream = self._choice.candidates[0]
        facts = self.judgement.facts
        decided = Decided(
            id=self.id,
            at=self._parts.now(),
            stage="rcpt",
            client=self.client,
            reverse_path=self.reverse_path,
            decision=Decision(stream, stream.rulebook, tuple(verdict for _, verdict in refused)),
            recipients=tuple(Recipient(e.path, e.key, verdict) for e, verdict in refused),
            facts={entry.key: facts[entry.key] for entry, _ in refused},
        )
        await self.record(decided)
        for entry, verdict in refused:
            replies[entry.index] = recipient_reply(entry.path, verdict, stream.name, self.id)

    async def decide(
        self,
        headers: HeaderBlock,
        size: int,
        body: Body | None = None,
        text: Body | None = None,
    ) -> Judged:
        """Judge the message and what is left of its recipients. Nothing is recorded yet.

        `body` is None when the message is not ours to relay and to sign; then `text` is what
        there is to read of it.
        Where mail is counted it is counted for those who may get it: see `not_mailed`. Raises
        StoreUnavailable.
        """
        parts = self._parts
        features = read_features(headers, parts.stream_header, parts.source_header)
        features = await self._looked_closer(headers, features, body, text or body)
        if features.dkim_fields and parts.verifier is not None:
            features = await self._with_signatures(headers, features, body)
        keys = [entry.key for entry in self.accepted]
        decision = await self.judgement.of_message(self.id, keys, features)
        if self.judgement.uncounted is not None:
            self.failed(self.judgement.uncounted)
        refused = tuple(
            [
                (entry, verdict)
                for entry, verdict in zip(self.accepted, decision.recipients, strict=True)
                if verdict.action is not Action.ALLOW
            ]
        )
        allowed = decision.message is None or decision.message.action is Action.ALLOW
        passes = decision.stream.mode is Mode.OBSERVE or (
            allowed and (not refused or self._goes_to_some(refused))
        )
        if not passes and allowed:
            verdict = Verdict(_worst(refused), Reason.RECIPIENTS_REFUSED, rule="on_mixed")
            decision = replace(decision, message=verdict)
        judged = Judged(self._decided(decision, headers, features, size, passes), refused, passes)
        if self.judgement.counted and refused and not judged.decided.observed:
            await self.not_mailed({e.key for e, _ in refused} if passes else None)
        return judged

    async def _with_signatures(
        self, headers: HeaderBlock, features: MessageFeatures, body: Body | None
    ) -> MessageFeatures:
        """Find out about the signatures that the message came with, if that matters."""
        parts, choice = self._parts, self._choice
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        if features.closer is not None and features.closer.came_on is not None:
            stream = parts.undeclared
        if isinstance(stream, Verdict) or not asks_for_signatures(stream, features):
            return features
        start = parts.ticks()
        features, failure = await with_signatures(parts, stream, features, headers, body)
        spend(self.seconds, "dns", parts.ticks() - start)
        if failure:
            parts.emit(Failed(self.client.listener, "dns", failure))
        return features

    async def _looked_closer(
        self,
        headers: HeaderBlock,
        features: MessageFeatures,
        body: Body | None,
        text: Body | None,
    ) -> MessageFeatures:
        """Find out what the stream asks for besides. Raises StoreUnavailable."""
        parts, choice = self._parts, self._choice
        stream = choose_stream(choice.permitted, choice.default, features.stream_header)
        if isinstance(stream, Verdict) or not stream.looks_closer:
            return features
        start = parts.ticks()
        people = [entry.key for entry in self.accepted]
        if body is not None:
            features = with_own_signature(parts, stream, features)
        features = await with_closer_look(
            parts, stream, features, headers, self.reverse_path, people, text
        )
        spend(self.seconds, "policy", parts.ticks() - start)
        return await self._with_organisations(stream, features)

    async def _with_organisations(
        self, stream: Stream, features: MessageFeatures
    ) -> MessageFeatures:
        """Find out about organisations, where alignment has to know them."""
        parts = self._parts
        if parts.organisations is None:
            return features
        from smtpproxy.pipeline.organisations import with_organisations

        if features.closer is not None and features.closer.came_on is not None:
            stream = parts.undeclared
        start = parts.ticks()
        features, failure = await with_organisations(parts.organisations, stream, features)
        spend(self.seconds, "dns", parts.ticks() - start)
        if failure:
            parts.emit(Failed(self.client.listener, "dns", failure))
        return features

    async def not_mailed(self, keys: Collection[str] | None = None) -> None:
        """Take back what was counted, for these or for everybody: they were not mailed.

        What cannot be taken back goes on counting: the mistake is on the side of too little.
        """
        counted = self.judgement.counted
        back = counted if keys is None else counted.intersection(keys)
        if not back or self._parts.mailings is None:
            return
        self.judgement.counted = counted - back
        try:
            await self._parts.mailings.release(self.id, back)
        except StoreUnavailable as error:
            self.failed(error)

    def _goes_to_some(self, refused: Sequence[Refused]) -> bool:
        """Whether the permitted are mailed and the others answered for on their own."""
        if len(refused) == len(self.accepted) or self.mixed == "refuse":
            return False
        return self.mixed == "each" or (
            self.reverse_path != ""
            and all(verdict.action is Action.REFUSE for _, verdict in refused)
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
        pairs = zip(self.accepted, decision.recipients, strict=True)
        recipients = tuple([Recipient(entry.path, entry.key, verdict) for entry, verdict in pairs])
        return Decided(
            id=self.id,
            at=self._parts.now(),
            stage="data",
            client=self.client,
            reverse_path=self.reverse_path,
            decision=decision,
            recipients=recipients,
            facts=self.judgement.facts,
            features=features,
            observed=decision.stream.mode is Mode.OBSERVE,
            undecided=any(
                verdict is not None and verdict.reason is Reason.TEMPORARY_FAILURE
                for verdict in (decision.message, *decision.recipients)
            ),
            message_id=identity.message_id,
            subject=identity.subject,
            header_from=identity.header_from,
            size=size,
            relayed=passes,
        )

    async def record(self, decided: Decided) -> None:
        """Put a decision on record and tell of it. Raises AuditUnavailable."""
        await self._parts.audit.commit(decided)
        self._parts.emit(decided)

    def refusal(self, judged: Judged) -> Reply:
        """The one reply for a message that does not pass."""
        decision = judged.decided.decision
        stream, verdict = decision.stream.name, decision.message
        if verdict is not None and verdict.reason is not Reason.RECIPIENTS_REFUSED:
            return message_reply(verdict, stream, self.id)
        named = [(entry.path, verdict) for entry, verdict in judged.refused]
        if len(named) == 1:
            return recipient_reply(*named[0], stream, self.id)
        return recipients_reply(named, stream, self.id)

    def failed(self, error: Exception, *, recipients: int = 0, messages: int = 0) -> Reply:
        """Tell of trouble; what could not be decided for it is counted as deferred by us."""
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {cause}"
        listener = self.client.listener
        if isinstance(error, UpstreamShareUsed):
            self._parts.emit(Limited(listener, self.client.peer, "upstream_connections"))
            return error.reply
        if isinstance(error, UpstreamError):
            self._parts.emit(Failed(listener, "upstream", text))
            return error.reply
        part: Part = "audit"
        for kind, its_part in _PARTS.items():
            if isinstance(error, kind):
                part = its_part
        stream = self._choice.default.name
        self._parts.emit(Failed(listener, part, text, stream, recipients, messages))
        return TEMPORARY_FAILURE

    def ended(self) -> None:
        """Tell that the message has its final answer."""
        stages = tuple(self.seconds.items())
        self._parts.emit(TransactionEnded(self.client.listener, self.spent, stages))

    def key(self, path: str) -> str:
        """The address by which a recipient is known. Raises AddressError."""
        return canonical(path if "@" in path else f"{path}@{self._parts.hostname}")


def unreadable(error: AddressError) -> Reply:
    """The reply about a recipient that cannot be judged by its address."""
    return AMBIGUOUS_ADDRESS if isinstance(error, AmbiguousAddress) else BAD_ADDRESS


def _worst(refused: Sequence[Refused]) -> Action:
    """Refusals come before deferrals, so that nobody retries the impossible."""
    actions = {verdict.action for _, verdict in refused}
    return Action.REFUSE if Action.REFUSE in actions else Action.DEFER
