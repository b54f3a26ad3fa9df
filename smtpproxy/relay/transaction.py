"""One mail transaction with the upstream, in lockstep with the client's."""

from __future__ import annotations  # of functions within functions: each costs a call

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct

from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import UpstreamConnection, UpstreamError, UpstreamLost
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.waiting import Deadline, Pending
from smtpproxy.wire.client import mail_command, rcpt_command
from smtpproxy.wire.commands import ClientInfo, Rcpt
from smtpproxy.wire.forwarding import xforward_command

_DATA = b"DATA\r\n"
_END = b".\r\n"
_NO_ADDRESS = Reply.of(550, "5.6.7", "the next mail server does not take SMTPUTF8")
_NO_UTF8 = Reply.of(554, "5.6.9", "the next mail server does not take UTF-8 in header fields")
_NO_EIGHT_BIT = Reply.of(554, "5.6.3", "the next mail server does not take 8-bit content")


class MailParameters(Struct, frozen=True):
    """What of the client's MAIL command goes to the upstream.

    `needs` are the extensions that the content needs, None while there is no content: until
    then nobody is refused for what may be ASCII.
    """

    reverse_path: str
    size: int | None = None
    eight_bit: bool = False
    utf8: bool = False
    ret: str | None = None
    envid: str | None = None
    client: ClientInfo | None = None  # for an upstream that believes what we say of it
    xclient_override: bool = False  # the client was named by XCLIENT
    needs: frozenset[str] | None = None
    owner: str = ""  # the client that its connection counts for; empty: the relay itself


class UpstreamTransaction:
    """MAIL and RCPT as the client sends them, then the content.

    Every reply is the upstream's own; where there is none, the answer is UpstreamError. Over an
    idle connection that takes pipelined commands nothing needs a task.
    """

    def __init__(self, pool: UpstreamPool, mail: MailParameters) -> None:
        self.accepted: list[Rcpt] = []
        self.in_doubt = False  # the end of data was sent and not answered: it may be accepted
        self.notifies = False  # whether the upstream sends the notifications that are asked for
        self._pool = pool
        self._mail = mail
        self._connection: UpstreamConnection | None = None
        self._offered: frozenset[str] = frozenset()
        self._mail_refusal: Reply | None = None
        self._go_ahead: Pending[list[Reply]] | None = None  # the answer to DATA
        self._error: UpstreamError | None = None
        self._deadline: Deadline | None = None  # while it is the client's turn

    def recipients(self, asked: Sequence[Rcpt]) -> Pending[list[Reply]]:
        """Put recipients to the upstream; the first call puts MAIL before them."""
        if self._error is not None:
            return Pending.failed(self._error)
        if self._mail_refusal is not None:
            return Pending.settled([self._mail_refusal] * len(asked))
        self.end_turn()
        if self._connection is not None:
            before, answered = 0, self._put(self._connection, b"", asked)
        else:
            before = len(self.accepted)  # where the connection was given back
            answered = self._begin([*self.accepted, *asked])

        def told(answer: Pending[list[Reply]]) -> list[Reply]:
            try:
                replies = answer.result()
                _check_still_accepted(replies[:before])
            except UpstreamError as error:
                self._lose(error)
                raise
            replies = replies[before:]
            self.accepted += [
                rcpt for rcpt, reply in zip(asked, replies, strict=True) if reply.code < 300
            ]
            return replies

        return answered.then(told)

    def leave_to_client(self, given_back: Callable[[], None]) -> None:
        """It is the client's turn: after `hold_timeout` others may have the connection.

        Then `given_back` is called, and what was accepted is put to the upstream again when the
        client goes on.
        """
        if self._connection is None:
            return

        def give_back() -> None:
            self.abort()
            given_back()

        self._deadline = self._pool.deadlines.watch(give_back)
        self._deadline.at = self._pool.deadlines.now() + self._pool.settings.hold_timeout

    def end_turn(self) -> None:
        """The client's turn is over: what is open stays so, what was given back is begun anew."""
        if self._deadline is not None:
            self._pool.deadlines.forget(self._deadline)
            self._deadline = None

    @property
    def is_open(self) -> bool:
        """Whether what was accepted still is."""
        return self._connection is not None

    @property
    def takes_all(self) -> bool:
        """Whether the upstream offers every extension that MAIL asked for."""
        mail = self._mail
        asked = {EIGHT_BIT, UTF8} if mail.utf8 else {EIGHT_BIT} if mail.eight_bit else set()
        return asked <= self._offered

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        """Refuse what the upstream could only garble (RFC 6531 3.5, RFC 6152 section 3)."""
        mail, lacking = self._mail, needs - self._offered
        if mail.utf8 and UTF8 in lacking:
            return _NO_UTF8
        if (mail.utf8 or mail.eight_bit) and EIGHT_BIT in lacking:
            return _NO_EIGHT_BIT
        return None

    def begin_data(self) -> None:
        """Send DATA now; the record may be committed while the upstream answers."""
        connection = self._connection
        if connection is None:
            raise self._error or UpstreamLost("no transaction")
        self._go_ahead = connection.exchange(_DATA, 1, self._pool.settings.command_timeout)

    def data_refusal(self) -> Pending[Reply | None]:
        """The reply to DATA; None when it is 354, and then send the content."""
        if self._go_ahead is None:
            return Pending.failed(UpstreamLost("DATA was not sent"))
        return self._go_ahead.then(self._data_answered)

    def _data_answered(self, answer: Pending[list[Reply]]) -> Reply | None:
        try:
            (reply,) = answer.result()
        except UpstreamError as error:
            self._lose(error)
            raise
        if reply.code == 354:
            return None
        if reply.code < 400 or reply.code == 421:
            self._lose(UpstreamLost(f"upstream answered DATA with {reply}"))
            return UpstreamLost.reply
        self._go_ahead = None  # what follows is taken as commands still
        self.abort()
        return _mirrored(reply)

    def finish(self, content: Iterable[bytes]) -> Pending[Reply]:
        """Send dot-stuffed content, each line ended, and its end; the final reply.

        It is OSError where the content cannot be read: then it must not look ended.
        """
        connection = self._connection
        if connection is None:
            return Pending.failed(self._error or UpstreamLost("no transaction"))
        timeout = self._pool.settings.data_timeout
        sent = connection.send_content(self._ended(content, connection), timeout)
        return sent.then(self._finished)

    def _finished(self, answer: Pending[Reply]) -> Reply:
        try:
            reply = answer.result()
        except UpstreamError as error:
            self._lose(error)
            raise
        except Exception:
            self.abort()
            raise
        self.in_doubt = False
        connection = self._connection
        if connection is not None:
            if reply.code == 421 or reply.code // 100 == 3:
                connection.close()
            self._release(connection)
        return _mirrored(reply)

    def _ended(self, content: Iterable[bytes], to: UpstreamConnection) -> Iterator[bytes]:
        """The content and its end: from that on, the upstream may accept it."""
        yield from content
        self.in_doubt = to.alive
        yield _END

    def abort(self) -> None:
        """Give up the transaction; once DATA was sent, only closing can do that."""
        connection = self._connection
        if connection is None:
            return
        if self._go_ahead is not None:
            connection.close()
        elif connection.alive:
            connection.reset(self._pool.settings.command_timeout)
        self._release(connection)

    def _begin(self, asked: Sequence[Rcpt], *, again: bool = False) -> Pending[list[Reply]]:
        """Send MAIL and the first recipients, at once where a connection is there for it."""
        connection = None if again else self._pool.acquire_idle(self._mail.owner)
        if connection is None:
            return Pending.of(self._connect_and_begin(asked, again=again))
        return self._begin_on(connection, asked, again=again)

    async def _connect_and_begin(self, asked: Sequence[Rcpt], *, again: bool) -> list[Reply]:
        connection = await self._pool.acquire(self._mail.owner, fresh=again)
        return await self._begin_on(connection, asked, again=again)

    def _begin_on(
        self, connection: UpstreamConnection, asked: Sequence[Rcpt], *, again: bool
    ) -> Pending[list[Reply]]:
        """Begin on this connection; again on a new one if it is an idle one that had died."""
        reused, connection.used = connection.used, True
        self._connection = connection
        if self._mail.xclient_override and connection.capabilities.xclient:
            answer = Pending.of(self._introduce_and_put(connection, asked))
        else:
            answer = self._put_mail(connection, asked)
        if again or not reused:
            return answer

        def once_more(error: BaseException) -> Pending[list[Reply]] | None:
            if not isinstance(error, UpstreamLost):
                return None
            connection.close()
            self._release(connection)
            return self._begin(asked, again=True)

        return answer.otherwise(once_more)

    async def _introduce_and_put(
        self, connection: UpstreamConnection, asked: Sequence[Rcpt]
    ) -> list[Reply]:
        if self._mail.client is not None:
            await connection.settled()
            await self._pool.introduce(connection, self._mail.client)
        return await self._put_mail(connection, asked)

    def _put_mail(
        self, connection: UpstreamConnection, asked: Sequence[Rcpt]
    ) -> Pending[list[Reply]]:
        self._offered = connection.capabilities.keywords
        refusal = self._not_offered()
        if refusal is not None:
            self._release(connection)
            self._mail_refusal = refusal
            return Pending.settled([refusal] * len(asked))
        return self._put(connection, self._mail_bytes(connection), asked)

    def _put(
        self, connection: UpstreamConnection, mail: bytes, asked: Sequence[Rcpt]
    ) -> Pending[list[Reply]]:
        """Send MAIL (if any) and RCPTs, in one go where the upstream takes that."""
        knows = connection.capabilities
        commands = [rcpt_command(rcpt, knows) for rcpt in asked if self._takes(rcpt.forward_path)]
        forward = b""
        if mail:
            commands.insert(0, mail)
            forward = self._forward(connection)
        if forward:
            commands.insert(0, forward)
        self.notifies = "DSN" in knows.keywords
        answer: Pending[list[Reply]]
        if not commands:
            answer = Pending.settled([])
        elif knows.pipelining:
            timeout = self._pool.settings.command_timeout
            answer = connection.exchange(b"".join(commands), len(commands), timeout)
        else:
            mail_at = bool(forward) if mail else -1
            answer = Pending.of(self._put_each(connection, commands, mail_at))

        def answered(answer: Pending[list[Reply]]) -> list[Reply]:
            replies = answer.result()
            for reply in replies:
                if reply.code == 421:
                    raise UpstreamLost(f"upstream answered {reply}")
            if forward:
                del replies[0]  # what the upstream does not believe, it does not need
            if mail:
                first = replies.pop(0)
                if first.code >= 300:
                    self._mail_refusal = _mirrored(first)
                    connection.reset(self._pool.settings.command_timeout)
                    self._release(connection)
                    return [self._mail_refusal] * len(asked)
            told = map(_mirrored, replies)
            return [next(told) if self._takes(rcpt.forward_path) else _NO_ADDRESS for rcpt in asked]

        return answer.then(answered)

    async def _put_each(
        self, connection: UpstreamConnection, commands: Sequence[bytes], mail_at: int
    ) -> list[Reply]:
        """Send one command after the other, no more behind a MAIL that is refused."""
        timeout = self._pool.settings.command_timeout
        replies: list[Reply] = []
        await connection.settled()
        for index, command in enumerate(commands):
            reply = await connection.command(command, timeout)
            replies.append(reply)
            if reply.code == 421 or (index == mail_at and reply.code >= 300):
                break
        return replies

    def _not_offered(self) -> Reply | None:
        if self._takes(self._mail.reverse_path):
            return self.refusal_of(self._mail.needs or frozenset())
        return _NO_ADDRESS

    def _takes(self, path: str) -> bool:
        return path.isascii() or UTF8 in self._offered

    def _mail_bytes(self, connection: UpstreamConnection) -> bytes:
        mail = self._mail
        return mail_command(
            mail.reverse_path,
            connection.capabilities,
            size=mail.size,
            eight_bit=mail.eight_bit or (mail.utf8 and UTF8 not in self._offered),
            utf8=mail.utf8,
            ret=mail.ret,
            envid=mail.envid,
        )

    def _forward(self, connection: UpstreamConnection) -> bytes:
        takes = connection.capabilities.xforward
        return xforward_command(self._mail.client, takes) if takes and self._mail.client else b""

    def _release(self, connection: UpstreamConnection) -> None:
        self.end_turn()
        self._connection = None
        self._pool.release(connection)

    def _lose(self, error: UpstreamError) -> None:
        self._error = error
        if self._connection is not None:
            self._connection.close()
            self._release(self._connection)


def _check_still_accepted(replies: Iterable[Reply]) -> None:
    """Raises UpstreamError: the client was told that they are accepted."""
    for reply in replies:
        if reply.code >= 300:
            raise UpstreamError(f"a recipient accepted earlier is now refused: {reply.code}")


def _mirrored(reply: Reply) -> Reply:
    """The client's reply: as it came, with an enhanced code if it had none (RFC 2034).

    What is no answer to the command is an internal failure, never the client's success.
    """
    if reply.code == 421:
        return UpstreamLost.reply
    if reply.code // 100 == 3:
        return UpstreamError.reply
    if reply.enhanced is not None:
        return reply
    return Reply(reply.code, f"{reply.code // 100}.0.0", reply.lines)
