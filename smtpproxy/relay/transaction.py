"""One mail transaction with the upstream, in lockstep with the client's."""

from __future__ import annotations  # of functions within functions: each costs a call

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from msgspec import Struct

from smtpproxy.mail.eight_bit import EIGHT_BIT, EXTENSIONS, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import (
    Exchange,
    UpstreamConnection,
    UpstreamError,
    UpstreamLost,
)
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.replies import NO_ADDRESS, NO_EIGHT_BIT, NO_UTF8, mirrored
from smtpproxy.waiting import Pending
from smtpproxy.wire.client import Capabilities, rcpt_command
from smtpproxy.wire.commands import ClientInfo, Rcpt
from smtpproxy.wire.forwarding import xforward_command

_DATA = b"DATA\r\n"
_END = b".\r\n"


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

    def commands(self, knows: Capabilities) -> list[bytes]:
        """MAIL, after XFORWARD where the upstream takes that. What it does not know is left out."""
        offered = knows.keywords
        parameters = f" SIZE={self.size}" if self.size is not None and "SIZE" in offered else ""
        if (self.eight_bit or (self.utf8 and UTF8 not in offered)) and EIGHT_BIT in offered:
            parameters += f" BODY={EIGHT_BIT}"
        if self.utf8 and UTF8 in offered:
            parameters += f" {UTF8}"
        if (self.ret or self.envid) and "DSN" in offered:
            parameters += f" RET={self.ret}" if self.ret else ""
            parameters += f" ENVID={self.envid}" if self.envid else ""
        mail = f"MAIL FROM:<{self.reverse_path}>{parameters}\r\n".encode()
        if self.client is None or not knows.xforward:
            return [mail]
        forward = xforward_command(self.client, knows.xforward)
        return [forward, mail] if forward else [mail]


class _Put(Exchange[list[Reply]]):
    """Recipients on their way to the upstream; the answer is the reply to each."""

    __slots__ = ("again", "asked", "before", "connection", "opening")

    def __init__(
        self,
        answered: Callable[[_Put, list[Reply], Exception | None], None],
        asked: Sequence[Rcpt],
        before: int = 0,
    ) -> None:
        super().__init__(answered)
        self.asked = asked
        self.before = before  # how many of them the upstream had accepted on another connection
        self.connection: UpstreamConnection | None = None  # that they were put to
        self.opening = 0  # how many commands go before them: MAIL, and XFORWARD before that
        self.again = False  # may be put once more: it is an idle connection, perhaps a dead one


class UpstreamTransaction(Struct, eq=False):
    """MAIL and RCPT as the client sends them, then the content.

    Every reply is the upstream's own; where there is none, the answer is UpstreamError.
    """

    _pool: UpstreamPool
    _mail: MailParameters
    accepted: list[Rcpt] = []
    in_doubt: bool = False  # the end of data was sent and not answered: it may be accepted
    notifies: bool = False  # whether the upstream sends the notifications that are asked for
    _connection: UpstreamConnection | None = None
    _offered: frozenset[str] = frozenset()
    _mail_refusal: Reply | None = None
    _data_sent: bool = False  # and not refused: what follows is content
    _error: UpstreamError | None = None

    def recipients(self, asked: Sequence[Rcpt]) -> Pending[list[Reply]]:
        """Put recipients to the upstream; the first call puts MAIL before them."""
        if self._error is not None:
            return Pending.failed(self._error)
        if self._mail_refusal is not None:
            return Pending.settled([self._mail_refusal] * len(asked))
        if self._connection is not None:
            self._connection.end_hold()
            put = _Put(self._answered, asked)
            self._send(self._connection, put, [])
            return put
        # Where it was given back, what was accepted is put again.
        put = _Put(self._answered, [*self.accepted, *asked], len(self.accepted))
        connection = self._pool.acquire_idle(self._mail.owner)
        if connection is None:
            put.after(self._connect_and_begin(put, fresh=False), partial(self._failed, put))
        else:
            self._begin_on(connection, put)
        return put

    def leave_to_client(self, given_back: Callable[[], None]) -> None:
        """It is the client's turn: after `hold_timeout` others may have the connection.

        Then `given_back` is called, and what was accepted is put to the upstream again when the
        client goes on.
        """
        connection = self._connection
        if connection is None:
            return

        def give_back() -> None:
            self.abort()
            given_back()

        connection.hold(self._pool.settings.hold_timeout, give_back)

    def end_turn(self) -> None:
        """The client's turn is over: what is open stays so, what was given back is begun anew."""
        if self._connection is not None:
            self._connection.end_hold()

    @property
    def is_open(self) -> bool:
        """Whether what was accepted still is."""
        return self._connection is not None

    @property
    def takes_all(self) -> bool:
        """Whether the upstream offers every extension that MAIL asked for."""
        mail = self._mail
        if mail.utf8:
            return self._offered >= EXTENSIONS
        return not mail.eight_bit or EIGHT_BIT in self._offered

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        """Refuse what the upstream could only garble (RFC 6531 3.5, RFC 6152 section 3)."""
        mail = self._mail
        if not (mail.utf8 or mail.eight_bit):
            return None
        lacking = needs - self._offered
        if mail.utf8 and UTF8 in lacking:
            return NO_UTF8
        return NO_EIGHT_BIT if EIGHT_BIT in lacking else None

    def begin_data(self) -> Pending[Reply | None]:
        """Send DATA. The answer is None where the upstream says 354, and then send the content;
        else its refusal. Raises UpstreamError where nothing is begun."""
        connection = self._connection
        if connection is None:
            raise self._error or UpstreamLost("no transaction")
        self._data_sent = True
        go_ahead: Exchange[Reply | None] = Exchange(self._data_answered)
        connection.exchange(_DATA, go_ahead, self._pool.settings.command_timeout)
        return go_ahead

    def _data_answered(
        self, go_ahead: Exchange[Reply | None], replies: list[Reply], error: Exception | None
    ) -> None:
        if error is None:
            go_ahead.settle(self._data_refusal(replies[0]))
        else:
            self._lose(error)
            go_ahead.fail(error)

    def _data_refusal(self, reply: Reply) -> Reply | None:
        if reply.code == 354:
            return None
        if reply.code < 400 or reply.code == 421:
            self._lose(UpstreamLost(f"upstream answered DATA with {reply}"))
            return UpstreamLost.reply
        self._data_sent = False
        self.abort()
        return mirrored(reply)

    def finish(self, content: Iterable[bytes]) -> Pending[Reply]:
        """Send dot-stuffed content, each line ended, and its end; the final reply.

        It is OSError where the content cannot be read: then it must not look ended.
        """
        connection = self._connection
        if connection is None:
            return Pending.failed(self._error or UpstreamLost("no transaction"))
        end: Exchange[Reply] = Exchange(self._content_answered)
        pieces = chain(content, self._end(connection))
        connection.send_content(pieces, end, self._pool.settings.data_timeout)
        return end

    def _end(self, connection: UpstreamConnection) -> Iterator[bytes]:
        """The end of the content: from that on, the upstream may accept it."""
        self.in_doubt = connection.alive
        yield _END

    def _content_answered(
        self, end: Exchange[Reply], replies: list[Reply], error: Exception | None
    ) -> None:
        if error is not None:
            self._lose(error)
            end.fail(error)
            return
        reply = replies[0]
        self.in_doubt = False
        if reply.code == 421 or reply.code // 100 == 3:
            self._drop()
        else:
            self._release()
        end.settle(mirrored(reply))

    def abort(self) -> None:
        """Give up the transaction; once DATA was sent, only closing can do that."""
        connection = self._connection
        if connection is None:
            return
        if self._data_sent:
            connection.close()
        elif connection.alive:
            connection.reset(self._pool.settings.command_timeout)
        else:
            connection.end_hold()
        self._release()

    async def _connect_and_begin(self, put: _Put, *, fresh: bool) -> None:
        connection = await self._pool.acquire(self._mail.owner, fresh=fresh)
        self._begin_on(connection, put)

    def _begin_on(self, connection: UpstreamConnection, put: _Put) -> None:
        """Begin on this connection; again on a new one if it is an idle one that had died."""
        put.again, connection.used = connection.used, True
        self._connection = connection
        if self._mail.xclient_override and connection.capabilities.xclient:
            put.after(self._introduce_and_put(connection, put), partial(self._failed, put))
        else:
            self._put_mail(connection, put)

    async def _introduce_and_put(self, connection: UpstreamConnection, put: _Put) -> None:
        if self._mail.client is not None:
            await connection.settled()
            await self._pool.introduce(connection, self._mail.client)
        self._put_mail(connection, put)

    def _put_mail(self, connection: UpstreamConnection, put: _Put) -> None:
        knows, mail = connection.capabilities, self._mail
        self._offered = offered = knows.keywords
        self.notifies = "DSN" in offered
        refusal = self.refusal_of(mail.needs) if mail.needs else None
        if not (mail.reverse_path.isascii() or UTF8 in offered):
            refusal = NO_ADDRESS
        if refusal is None:
            opening = mail.commands(knows)
            put.opening = len(opening)
            self._send(connection, put, opening)
        else:
            self._release()
            self._refuse_mail(put, refusal)

    def _send(self, connection: UpstreamConnection, put: _Put, commands: list[bytes]) -> None:
        """Send MAIL (if any) and RCPTs, in one go where the upstream takes that."""
        knows, timeout = connection.capabilities, self._pool.settings.command_timeout
        asked, utf8 = put.asked, UTF8 in self._offered
        commands += [rcpt_command(r, knows) for r in asked if utf8 or r.forward_path.isascii()]
        put.connection, put.count, put.replies = connection, len(commands), []
        if not commands:
            self._answered(put, [], None)
        elif knows.pipelining:
            connection.exchange(b"".join(commands), put, timeout)
        else:
            put.after(self._put_each(connection, put, commands), partial(self._failed, put))

    def _answered(self, put: _Put, replies: list[Reply], error: Exception | None) -> None:
        """Take the replies to MAIL (if any) and RCPTs, or why there are none."""
        connection = self._connection
        if connection is None or connection is not put.connection:
            put.fail(error or UpstreamLost("given up before its answer"))
            return
        if replies and replies[-1].code == 421:
            error = UpstreamLost(f"upstream answered {replies[-1]}")
        if error is not None:
            self._failed(put, error)
            return
        asked, opening = put.asked, put.opening
        if opening:  # what the upstream does not believe of XFORWARD, it does not need
            first = replies[opening - 1]
            if first.code >= 300:
                connection.reset(self._pool.settings.command_timeout)
                self._release()
                self._refuse_mail(put, mirrored(first))
                return
        answers = list(map(mirrored, replies[opening:]))
        if len(answers) < len(asked):  # some were not put to it
            told = iter(answers)
            answers = [next(told) if rcpt.forward_path.isascii() else NO_ADDRESS for rcpt in asked]
        if put.before:
            for reply in answers[: put.before]:
                if reply.code >= 300:  # the client was told that they are accepted
                    lost = f"a recipient accepted earlier is now refused: {reply.code}"
                    self._failed(put, UpstreamError(lost))
                    return
            answers, asked = answers[put.before :], asked[put.before :]
        for rcpt, reply in zip(asked, answers, strict=True):
            if reply.code < 300:
                self.accepted.append(rcpt)
        put.settle(answers)

    def _refuse_mail(self, put: _Put, refusal: Reply) -> None:
        self._mail_refusal = refusal
        if put.before:
            self._failed(
                put, UpstreamError(f"MAIL accepted earlier is now refused: {refusal.code}")
            )
        else:
            put.settle([refusal] * len(put.asked))

    def _failed(self, put: _Put, error: BaseException) -> None:
        """There is no answer, unless an idle connection had died: then a new one is asked."""
        if put.again and isinstance(error, UpstreamLost):
            put.again = False
            self._drop()
            put.after(self._connect_and_begin(put, fresh=True), partial(self._failed, put))
            return
        if isinstance(error, UpstreamError):
            self._lose(error)
        put.fail(error)

    async def _put_each(
        self, connection: UpstreamConnection, put: _Put, commands: Sequence[bytes]
    ) -> None:
        """Send one command after the other, no more behind a MAIL that is refused."""
        timeout = self._pool.settings.command_timeout
        replies: list[Reply] = []
        await connection.settled()
        for index, command in enumerate(commands):
            reply = await connection.command(command, timeout)
            replies.append(reply)
            if reply.code == 421 or (index == put.opening - 1 and reply.code >= 300):
                break
        self._answered(put, replies, None)

    def _release(self) -> None:
        """Give the connection back to the pool, which looks whether it is alive."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._release()

    def _lose(self, error: Exception) -> None:
        """There is no upstream any more; or it must not take what was sent for all."""
        if isinstance(error, UpstreamError):
            self._error = error
        self._drop()
