"""Counting the mail after a backup again, from the audit log, for caps and one-time questions."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path

from smtpproxy.backup.restoring import Pending
from smtpproxy.policy.model import Action, StreamClass
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import Record, read
from smtpproxy.store import open_mailings
from smtpproxy.store.sql.mailings import Counted

_SLACK = timedelta(minutes=5)  # harmless: a message is never counted twice
_AT_ONCE = 2_000
_REFUSED = 400


async def count_again(
    settings: Settings,
    folders: Iterable[Path],
    waiting: Pending,
    erased: Callable[[Collection[str]], Collection[str]],
) -> int:
    """Count the messages to people since the backup; return how many.

    `erased` returns which addresses to leave out. A message without a recorded answer counts, too.
    Raises StoreUnavailable, OSError.
    """
    log = open_mailings(settings.store)
    done = 0
    with closing(log):
        for folder in folders:
            records = read(folder, since=waiting.taken_at - _SLACK)
            found = (one for record in records for one in _mailed(settings, record))
            while some := list(islice(found, _AT_ONCE)):
                gone = erased({one.address for one in some})
                done += await log.count_again([one for one in some if one.address not in gone])
    return done


def _mailed(settings: Settings, record: Record) -> Iterator[Counted]:
    """Yield each person whom the message went to, if that is counted at all."""
    decided = record.decided
    stream = decided.decision.stream
    if not decided.relayed or stream.stream_class is not StreamClass.MARKETING:
        return
    for place, recipient in enumerate(decided.recipients):
        name, outcome = recipient.canonical, record.outcome_of(place)
        known = decided.facts.get(name)
        counts = settings.counts_mailings or (
            known is not None and known.contact is not None and known.contact.preferences
        )
        went = decided.observed or recipient.verdict.action is Action.ALLOW
        if counts and went and "@" in name and (outcome is None or outcome.code < _REFUSED):
            yield Counted(name, decided.id, stream, decided.at)
