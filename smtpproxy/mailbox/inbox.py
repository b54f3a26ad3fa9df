"""Works through the maildir. Reports that wait for another relay's record of a message stay in it
meanwhile."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from msgspec import Struct, field

from smtpproxy.mail.return_path import ReturnPath
from smtpproxy.mailbox.acting import Actor, Done, log_done
from smtpproxy.mailbox.messages import Messages
from smtpproxy.mailbox.reading import Reader, Understood
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.maildir import Maildir

_AT_ONCE = 100
_MAX_WAITING = 10_000
_MAX_OF_ONE = 5
"""How many reports with the same return path may wait: anybody who has one can send it as often as
they like, and would take up all the room."""
_AT_LEAST = timedelta(minutes=1)
"""Even a report that came long ago waits this long, because no other relay has been asked yet."""


class _Wait(Struct, frozen=True):
    """A report that waits for the record of a message."""

    path: ReturnPath
    came: datetime
    since: datetime


class Inbox(Struct, frozen=True):
    """Reads reports and acts on them, in the order of their names. After a restart a waiting report
    is read again, and continues to wait."""

    maildir: Maildir
    reader: Reader
    actor: Actor
    messages: Messages
    now: Callable[[], datetime]
    _waiting: dict[str, _Wait] = {}
    _of_path: Counter[ReturnPath] = field(default_factory=Counter)

    async def work_through(self, ending: Callable[[], bool]) -> Sequence[Done]:
        """Act on some of the reports. Raises StoreUnavailable, OSError."""
        answers = await self.messages.elsewhere({wait.path.id for wait in self._waiting.values()})
        again = self._again(answers)
        most = self.actor.settings.size_limit + 1
        while not ending():
            waiting = frozenset(self._waiting)
            arrived = await asyncio.to_thread(self.maildir.arrived, _AT_ONCE, most, waiting)
            if not arrived:
                break
            understood = await self.reader.read(arrived, answers)
            ready = [one for one in understood if one.arrived.id in again or not self._waits(one)]
            if ready:
                return await self._act(ready, again)
            await self.messages.elsewhere({one.lacks.id for one in understood if one.lacks})
        return ()

    def _again(self, answers: Mapping[str, SentMessage]) -> Mapping[str, str]:
        """Remove some reports whose wait is over from the waiting ones; return the decisions that
        they are about."""
        over = (
            id
            for id, wait in self._waiting.items()
            if wait.path.id in answers or self._is_over(wait)
        )
        again = {id: self._waiting[id].path.id for id in islice(over, _AT_ONCE)}
        for id in again:
            path = self._waiting.pop(id).path
            self._of_path[path] -= 1
            if not self._of_path[path]:
                del self._of_path[path]
        return again

    def _is_over(self, wait: _Wait) -> bool:
        now = self.now()
        longest_wait = self.messages.longest_wait(wait.path.id)
        return now - wait.came >= longest_wait and now - wait.since >= _AT_LEAST

    def _waits(self, one: Understood) -> bool:
        if one.lacks is None or not self.messages.may_be_elsewhere(one.lacks.id):
            return False
        if len(self._waiting) >= _MAX_WAITING or self._of_path[one.lacks] >= _MAX_OF_ONE:
            return False
        self._of_path[one.lacks] += 1
        self._waiting[one.arrived.id] = _Wait(one.lacks, one.arrived.at, self.now())
        return True

    async def _act(self, ready: Sequence[Understood], waited: Mapping[str, str]) -> Sequence[Done]:
        done = await self.actor.act(ready)
        await asyncio.to_thread(_settle, self.maildir, done)
        # Handing on still needs the record.
        done_with = [one for one in ready if not one.hands_on]
        lacked = (one.lacks.id if one.lacks else one.about for one in done_with)
        about = (*lacked, *(waited.get(one.arrived.id) for one in done_with))
        await self.messages.used({id for id in about if id is not None})
        return done


def _settle(maildir: Maildir, done: Sequence[Done]) -> None:
    for each in done:
        one = each.understood
        maildir.settle(one.arrived.id)
        if one.is_of_erased and not one.hands_on:  # no erasure finds it
            maildir.remove([one.arrived.id])
        log_done(each)
