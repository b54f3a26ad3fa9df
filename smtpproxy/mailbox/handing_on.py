"""Hands bounces on to the reverse path that the app had given. This is a notice, judged and
recorded as one, and is sent once for each kind of bounce about a message to a recipient."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from smtpproxy.core.delivering import FAILURES
from smtpproxy.core.effects import Handlers, SendContent
from smtpproxy.core.notices import NoticeDeferred, NoticeRefused, Notices
from smtpproxy.core.perform import drive
from smtpproxy.core.services import Services
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import RECEIVED_LIMIT, Reply, received
from smtpproxy.mailbox.messages import Messages
from smtpproxy.settings import FeedbackSettings
from smtpproxy.sinks.audit.lines import ERASED
from smtpproxy.store.feedback import FeedbackLog, HandingOn, SentMessage
from smtpproxy.store.maildir import Arrived, Maildir
from smtpproxy.store.records import StoreUnavailable

_AT_ONCE = 50
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
_GIVEN_UP_AFTER = timedelta(days=5)
"""As long as mail servers commonly retry (RFC 5321 4.5.4.1)."""

_LOOK_AGAIN = timedelta(minutes=5)
"""The longest time between two searches for a record, because another relay's answer is kept only
for a while."""

_ASKED_AT_LEAST = 3  # times, even for a bounce that came long ago

_LINE_END = re.compile(rb"\r\n|\r|\n")
_OF_DELIVERY = ("Return-Path", "Delivered-To", "X-Original-To")
"""Fields that the mailbox or the MTA adds above a delivered message."""

log = structlog.get_logger(__name__)


class _Nobody(Exception):
    """There is nobody to hand the bounce on to; the text says why."""


class _NotFound(Exception):
    """The record of the message does not exist, or not yet."""


class BounceRelay(Struct, frozen=True):
    """Hands on bounces that are due. Methods raise StoreUnavailable."""

    settings: FeedbackSettings
    services: Services
    handlers: Handlers
    log: FeedbackLog
    maildir: Maildir
    messages: Messages
    _over: set[bytes] = set()  # finished, but perhaps not yet recorded

    async def hand_on(self, ending: Callable[[], bool]) -> int:
        """Try all bounces that are due, or only the first if the upstream cannot be reached.
        Returns 0."""
        while due := await self.log.due(self.services.now(), _AT_ONCE):
            for bounce in due:
                if ending() or not await self._try(bounce):
                    return 0
        return 0

    async def _try(self, bounce: HandingOn) -> bool:
        """Try one; return whether to try the next one."""
        if bounce.key in self._over:
            await self._is_over(bounce)
            return True
        now = self.services.now()
        # Recorded before it goes: if nothing can be written any more, it would be sent again and
        # again.
        await self.log.hand_on_later(bounce.key, now + _pause(bounce.tries))
        try:
            message = await self._sent(bounce.decision)
            notices, content = await asyncio.to_thread(self._made, bounce, message)
            await drive(notices.handed_on(content), self._handlers(bounce))
        except (_Nobody, NoticeRefused) as error:  # a refusal is on record
            log.info("bounce not handed on", id=bounce.decision, reason=str(error))
        except NoticeDeferred as error:  # one app's mailbox may be full, but not the others'
            await self._waits(bounce, now, _GIVEN_UP_AFTER, error)
            return True
        except FAILURES as error:
            return not await self._waits(bounce, now, _GIVEN_UP_AFTER, error)
        except _NotFound as error:
            await self._looks_again(bounce, now, error)
            return True
        except Exception as error:  # one bounce must not block the others
            log.error("internal error", id=bounce.decision, exc_info=error)
            await self._waits(bounce, now, _GIVEN_UP_AFTER, error)
            return True
        else:
            log.info("bounce handed on", id=bounce.decision)
        await self._is_over(bounce)
        return True

    async def _is_over(self, bounce: HandingOn) -> None:
        """Record that nothing remains to be handed on; if that fails, remember it."""
        self._over.add(bounce.key)
        await self.log.handed_on(bounce.key)
        self._over.discard(bounce.key)
        await self.messages.used([bounce.decision])

    async def _waits(
        self, bounce: HandingOn, now: datetime, longest: timedelta, error: Exception
    ) -> bool:
        """Return whether it is tried again later; otherwise it is older than `longest` and given
        up."""
        waits = now - bounce.since < longest
        if waits:
            log.warning("bounce waits", id=bounce.decision, error=str(error))
        else:
            await self.log.keep(bounce.report, f"not handed on: {error}")
            await self._is_over(bounce)
            log.error("bounce given up", id=bounce.decision, error=str(error))
        return waits

    async def _looks_again(self, bounce: HandingOn, now: datetime, error: Exception) -> None:
        longest = self.messages.longest_wait(bounce.decision)
        if self.messages.may_be_elsewhere(bounce.decision) and bounce.tries < _ASKED_AT_LEAST:
            longest = timedelta.max
        if await self._waits(bounce, now, longest, error) and _pause(bounce.tries) > _LOOK_AGAIN:
            await self.log.hand_on_later(bounce.key, now + _LOOK_AGAIN)

    def _handlers(self, bounce: HandingOn) -> Handlers:
        """Return the handlers of effects, which also record that the upstream has the bounce.

        If the process is killed after that, the bounce is not handed on again.
        """

        send = self.handlers[SendContent]

        async def noted(effect: SendContent) -> Reply | None:
            reply: Reply | None = await send(effect)
            if reply is not None and reply.code < 300:
                with suppress(StoreUnavailable):  # it is recorded again at the end
                    await self._is_over(bounce)
            return reply

        return {**self.handlers, SendContent: noted}

    async def _sent(self, id: str) -> SentMessage:
        """Find the message, here or on another relay. Raises _NotFound, StoreUnavailable,
        OSError."""
        message = await asyncio.to_thread(self.messages.here, id)
        if message is None:
            message = (await self.messages.elsewhere([id])).get(id)
        if message is None:
            raise _NotFound(f"the record of message {id} is not found")
        return message

    def _made(self, bounce: HandingOn, message: SentMessage) -> tuple[Notices, bytes]:
        """Return the notices to hand it on with, and its content. Raises _Nobody, OSError."""
        arrived = self.maildir.read(bounce.report, self.settings.size_limit + 1)
        if arrived is None:
            raise _Nobody("the report is gone")
        path = message.reverse_path
        if not path:
            raise _Nobody("the app gave the null reverse path")
        if path.startswith(ERASED):
            raise _Nobody("the reverse path was erased")
        if path.rpartition("@")[2].lower() == self.settings.domain:
            raise _Nobody("the reverse path leads back to this mailbox")
        content = self._content(arrived, bounce)
        began = self.services.now()
        return Notices(self.services, bounce.decision, message.client, path, None, began), content

    def _content(self, arrived: Arrived, bounce: HandingOn) -> bytes:
        """The report as it came, with CRLF line ends and our trace field."""
        content = _LINE_END.sub(b"\r\n", arrived.content)
        if HeaderBlock(content).count("Received") >= RECEIVED_LIMIT:
            raise _Nobody("the report is in a mail loop")
        for name in _OF_DELIVERY:
            content = HeaderBlock(content).without(name)
        trace = received(
            helo="feedback",
            peer="unix",
            hostname=self.services.hostname,
            protocol=self.settings.protocol.upper(),
            id=bounce.report if bounce.report.isalnum() else bounce.decision,
            at=arrived.at,
        )
        return trace + content + (b"" if content.endswith(b"\r\n") else b"\r\n")


def _pause(tries: int) -> timedelta:
    pause: timedelta = min(_FIRST_PAUSE * 2 ** min(tries, 10), _LONGEST_PAUSE)
    return pause
