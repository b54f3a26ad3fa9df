"""A message that only some of its recipients get: who is told of the others, what a retry skips.

The sender is told by mail who was not mailed. Who has a copy, and of whom the sender was told, is
kept in a ledger until the client has its final answer: a client that tries again sends nothing
twice. docs/adr/0011-fan-out.md says why.
"""

from collections.abc import Callable, Iterable, Sequence

from smtpproxy.core.effects import FindCopies, ForgetCopies, NoteCopy, Steps
from smtpproxy.core.notices import NoticeRefused, Notices
from smtpproxy.core.recording import Mixed, Outcome
from smtpproxy.core.services import Services
from smtpproxy.core.streams import StreamChoice
from smtpproxy.core.transaction import Transaction
from smtpproxy.events import Client
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.store.protocols import StoreUnavailable


def told(forward_path: str) -> str:
    """What the ledger has where the sender was told that a recipient is not mailed."""
    return f"told {forward_path}"  # no path: a space stands between quotes


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
        self._digest: Callable[[], bytes] = bytes  # of the content, once there is any
        self._kept: set[str] = set()  # what the ledger has of this message

    def _notify_refused(self, outcome: Outcome, header: bytes) -> Steps[Outcome | None]:
        """Put the decision on record and tell the sender who is not mailed.

        Returns another outcome where the sender may not or cannot be told, or the store changed.
        """
        if not (yield from self._notices.permitted()):
            return self._refused_whole(outcome)
        changed = yield from self._settle(outcome)
        if changed is not None:
            return changed
        refusals = outcome.refusals
        yield from self._find_told([recipient.path for recipient in refusals])
        news = [
            RefusedRecipient(recipient.path, reply, recipient.rcpt.orcpt)
            for recipient, reply in refusals.items()
            if recipient.path not in self._notified
        ]
        try:
            if news:
                yield from self._timed("upstream", self._notices.refused(news, header))
        except NoticeRefused:
            return self._refused_whole(outcome)
        yield from self._note_told([each.address for each in news])
        return None

    # the ledger

    def _find(self, paths: Sequence[str]) -> Steps[frozenset[str]]:
        """Which of these the ledger has. Raises StoreUnavailable, OSError."""
        found = yield from FindCopies(self.reverse_path, self._digest, paths)
        self._kept |= found
        return found

    def _find_told(self, forward_paths: Sequence[str]) -> Steps[None]:
        """Where that cannot be found, the sender may be told twice: rather that than never."""
        news = [path for path in forward_paths if path not in self._notified]
        if not news:
            return
        try:
            found = yield from self._find([told(path) for path in news])
        except (StoreUnavailable, OSError) as error:
            self._failed(error)
            return
        self._notified.update(path for path in news if told(path) in found)

    def _note_told(self, forward_paths: Iterable[str]) -> Steps[None]:
        for path in forward_paths:
            self._notified.add(path)
            self._kept.add(told(path))
            try:
                yield from NoteCopy(self.reverse_path, self._digest, told(path))
            except (StoreUnavailable, OSError) as error:
                self._failed(error)
                return

    def _forget(self) -> Steps[None]:
        """The client has its final answer. Where this fails, the message again is a retry still."""
        if not self._kept:
            return
        try:
            yield from ForgetCopies(self.reverse_path, self._digest, sorted(self._kept))
        except (StoreUnavailable, OSError) as error:
            self._failed(error)
