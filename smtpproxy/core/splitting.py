"""Telling the sender of a message by mail who of its recipients was not mailed."""

from smtpproxy.core.effects import Steps
from smtpproxy.core.notices import NoticeRefused, Notices
from smtpproxy.core.outcome import Mixed, Outcome
from smtpproxy.core.services import Services
from smtpproxy.core.streams import StreamChoice
from smtpproxy.core.transaction import Transaction
from smtpproxy.events import Client
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.relay.errors import UpstreamError


class NotifyingTransaction(Transaction):
    """A transaction that may go to some of its recipients, and tell the sender of the others."""

    def __init__(
        self,
        services: Services,
        client: Client,
        reverse_path: str,
        choice: StreamChoice,
        mixed: Mixed | None = None,
        envid: str | None = None,
    ) -> None:
        super().__init__(services, client, reverse_path, choice, mixed)
        self._notices = Notices(services, self.id, client, reverse_path, envid)
        self._notified: set[str] = set()  # forward paths of whom the sender was told

    def _notify_refused(self, outcome: Outcome, header: bytes) -> Steps[Outcome | None]:
        """Put the decision on record and tell the sender who is not mailed.

        Returns another outcome where the sender may not or cannot be told, or the store changed.
        """
        if not (yield from self._notices.permitted()):
            return self._refused_whole(outcome)
        settled = yield from self._settle(outcome)
        if settled is not outcome:
            return settled
        told = outcome.refusals
        news = [r for r in told if r.path not in self._notified]
        entries = [RefusedRecipient(r.path, told[r], r.rcpt.orcpt) for r in news]
        try:
            if entries:
                yield from self._timed("upstream", self._notices.refused(entries, header))
        except NoticeRefused:
            refused = self._refused_whole(outcome)
            yield from self._note_outcome(outcome, refused.refusal, 0)
            return refused
        except UpstreamError as error:
            yield from self._note_outcome(outcome, error.reply, 0)
            raise
        self._notified.update(r.path for r in news)
        return None
