"""For whom a message is counted, if mail is counted, and how that is taken back."""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from smtpproxy.core.effects import (
    CountCampaign,
    CountMailing,
    ReleaseCampaign,
    ReleaseMailing,
    Steps,
)
from smtpproxy.core.recording import Outcome, RecordedTransaction
from smtpproxy.policy.model import Action, MessageFeatures, Mode, Stream, StreamClass, Verdict
from smtpproxy.store.records import StoreUnavailable


class CountedTransaction(RecordedTransaction):
    """A transaction that counts what its recipients are sent."""

    __slots__ = ()

    def _counts(self, stream: Stream) -> bool:
        """Whether messages on this stream are counted for these recipients."""
        return (
            self._services.counts_mailings or bool(self._evaluation.limited)
        ) and stream.stream_class is StreamClass.MARKETING

    def _count(
        self, stream: Stream, addresses: Sequence[str], verdicts: Sequence[Verdict]
    ) -> Steps[bool]:
        """Count the message once for each who may get it; return whether verdicts depend on that.

        The facts then hold what any worker had counted before it.
        """
        limited, all_count = self._evaluation.limited, self._services.counts_mailings
        if not self._counts(stream):
            return False
        observed = stream.mode is Mode.OBSERVE
        pairs = zip(addresses, verdicts, strict=True)
        mailed = frozenset(a for a, v in pairs if observed or v.action is Action.ALLOW)
        mailed = (mailed if all_count else mailed & limited) - self._counted
        if not mailed:
            return False
        count = CountMailing(self.id, stream, mailed, self._services.now())
        try:
            before = yield from count
        except StoreUnavailable as error:
            if not observed:
                raise
            self._failed(error)
            return False
        self._counted |= mailed
        if not (stream.counts_mailings or mailed & limited):
            return False
        self._evaluation.learn_mailings(before)
        return True

    def _try_campaign(
        self,
        stream: Stream,
        addresses: Sequence[str],
        verdicts: Sequence[Verdict],
        features: MessageFeatures,
    ) -> Steps[MessageFeatures]:
        """Return the features with what is known of the campaign; while too few were counted for
        it, count those who may get the message. Raises StoreUnavailable, unless it is only
        observed.
        """
        content, observed = features.content, stream.mode is Mode.OBSERVE
        if stream.trial is None or content is None or content.campaign is None:
            return features
        pairs = zip(addresses, verdicts, strict=True)
        may_get = [address for address, verdict in pairs if verdict.action is Action.ALLOW]
        people = self._evaluation.strangers(stream, may_get)
        if not people:
            return features
        now, key, most = self._services.now(), content.campaign.key, stream.trial.recipients
        try:
            known = yield from CountCampaign(stream.name, key, self.id, people, now, most)
        except StoreUnavailable as error:
            if not observed:
                raise
            self._failed(error)
            return features
        self._tried = people
        return replace(features, content=replace(content, campaign=known))

    def _not_mailed(self, addresses: Collection[str] | None = None) -> Steps[None]:
        """Take back the count for these, or (None) for everybody, because they were not mailed.

        If that fails, the message keeps counting, which errs on the side of too little mail.
        """
        back = self._counted if addresses is None else self._counted.intersection(addresses)
        if not back:
            return
        self._counted -= back
        try:
            yield from ReleaseMailing(self.id, back)
            if self._tried:
                yield from self._not_tried(back)
        except StoreUnavailable as error:
            self._failed(error)

    def _not_tried(self, addresses: Collection[str]) -> Steps[None]:
        """Take back the campaign's count for these, so that others are among the first."""
        content, stream = self._features.content, self._stream
        back = {one: stranger for one, stranger in self._tried.items() if one in addresses}
        if back and content and content.campaign and stream and stream.trial:
            most = stream.trial.recipients
            yield from ReleaseCampaign(content.campaign.key, self.id, back, most)

    def _release_refused(self, outcome: Outcome) -> Steps[None]:
        if self._counted and outcome.refused and not outcome.decided.observed:
            refused = {recipient.canonical for recipient, _ in outcome.refused}
            yield from self._not_mailed(refused if outcome.passes else None)
