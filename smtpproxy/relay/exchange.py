"""What was sent to the upstream, and the replies that are due."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from smtpproxy.mail.reply import Reply
from smtpproxy.waiting import Pending
from smtpproxy.wire.commands import Rcpt

T = TypeVar("T")


class Exchange(Pending[T]):
    """Commands sent together, and their replies so far, which `answered` turns into the answer.

    It is called once, with all `count` replies, or with an error: UpstreamError, or whatever
    reading the content raised. A 421 is always the last reply, because the upstream then closes the
    connection.
    """

    __slots__ = ("answered", "count", "replies")

    def __init__(
        self, answered: Callable[[Any, list[Reply], Exception | None], None], count: int = 1
    ) -> None:
        self.done = False  # not by `super`, which takes twice as long for so many classes
        self.value = self.error = self._callback = self._source = None
        self.answered = answered
        self.count = count
        self.replies: list[Reply] = []

    def lost(self, error: Exception) -> None:
        """No replies will come. If `answered` raises, that is the answer: nobody waits for ever."""
        try:
            self.answered(self, [], error)
        except Exception as fault:
            self.fail(fault)


class ContentSent(Exchange[Reply | None]):
    """Content, and the upstream's reply to its end.

    If the upstream was slower than we are, the end waits for `sent`: much may have happened since
    the message was judged. Then the answer is None, and the content is not ended.
    """

    __slots__ = ("slow", "unended")

    def __init__(self, answered: Callable[[Any, list[Reply], Exception | None], None]) -> None:
        super().__init__(answered)
        self.slow = False  # whether the upstream was, at least once
        self.unended = False


class Offer(Exchange[list[Reply]]):
    """Recipients that are being offered to the upstream; the answer is the reply to each."""

    __slots__ = ("asked", "connection", "named", "opening")

    def __init__(
        self,
        answered: Callable[[Any, list[Reply], Exception | None], None],
        asked: Sequence[Rcpt],
    ) -> None:
        super().__init__(answered)
        self.asked = self.named = asked  # after MAIL, `named` begins with those accepted before
        self.connection: object = None  # the one they were sent on
        self.opening = 0  # how many commands precede them: XFORWARD, MAIL
