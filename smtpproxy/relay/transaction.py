"""One mail transaction with the upstream, in lockstep with the client's."""

from __future__ import annotations  # those of nested functions would each cost a call

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.eight_bit import EIGHT_BIT, EXTENSIONS, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import (
    UpstreamClosing,
    UpstreamConnection,
    UpstreamError,
    UpstreamLost,
)
from smtpproxy.relay.exchange import ContentSent, Exchange, Offer
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.waiting import Pending
from smtpproxy.wire.client import rcpt_command
from smtpproxy.wire.commands import Rcpt

_NO_ADDRESS = Reply.of(550, "5.6.7", "the next mail server does not accept SMTPUTF8")

_DATA = b"DATA\r\n"
_END = b".\r\n"


class UpstreamTransaction(Struct, eq=False):
    """MAIL and RCPT as the client sends them, then the content.

    Every reply is the upstream's own; if there is none, the answer is UpstreamError.
    """

    _pool: UpstreamPool
    _mail: MailParameters
    accepted: list[Rcpt] = []
    in_doubt: bool = False  # the end of data was sent but not answered
    notifies: bool = False  # the upstream sends the notifications asked for
    _connection: UpstreamConnection | None = None
    _offered: frozenset[str] = frozenset()
    _mail_refusal: Reply | None = None
    _data_sent: bool = False  # and not refused: content follows
    _error: UpstreamError | None = None
    _used: bool = False  # whether the connection served an earlier transaction
    _replaced: bool = False  # whether a new one has replaced one in this step of the client

    def recipients(self, asked: Sequence[Rcpt]) -> Pending[list[Reply]]:
        """Offer recipients to the upstream; the first call sends MAIL before them."""
        if self._error is not None:
            return Pending.failed(self._error)
        if self._mail_refusal is not None:
            return Pending.settled([self._mail_refusal] * len(asked))
        offer = Offer(self._answered, asked)
        self._replaced = False
        connection = self._connection
        if connection is not None:
            connection.end_hold()
            self._send(connection, offer, [])
            return offer
        connection = self._pool.acquire_idle(self._mail.owner)
        if connection is None:
            offer.after(self._connect_and_begin(offer), partial(self._failed, offer))
        else:
            self._begin_on(connection, offer)
        return offer

    def begin_client_turn(self, on_hold_expired: Callable[[], None]) -> None:
        """Begin the client's turn: after `hold_timeout` others may have the connection.

        Then `on_hold_expired` is called, and when the client continues, the accepted recipients are
        offered to the upstream again.
        """
        connection = self._connection
        if connection is None:
            return

        def give_back() -> None:
            self.abort()
            on_hold_expired()

        connection.hold(self._pool.settings.hold_timeout, give_back)

    def end_client_turn(self) -> None:
        """End the client's turn: an open transaction stays open, others begin again later."""
        if self._connection is not None:
            self._connection.end_hold()

    @property
    def is_open(self) -> bool:
        """Whether the upstream still has the transaction."""
        return self._connection is not None

    @property
    def offers_all(self) -> bool:
        """Whether the upstream offers every extension that the client's MAIL asked for."""
        mail = self._mail
        if mail.utf8:
            return self._offered >= EXTENSIONS
        return not mail.eight_bit or EIGHT_BIT in self._offered

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        """Refuse content that needs an extension which the upstream lacks."""
        return self._mail.refusal(needs, self._offered)

    def begin_data(self) -> Pending[Reply | None]:
        """Send DATA, on another connection if this one is lost. The answer is None if the upstream
        says 354, and then the content has to follow; otherwise it is the refusal. Raises
        UpstreamError if there is no transaction."""
        connection = self._connection
        if connection is None:
            raise self._error or UpstreamLost("no transaction")
        go_ahead: Exchange[Reply | None] = Exchange(self._data_answered)
        self._replaced = False
        self._send_data(connection, go_ahead)
        return go_ahead

    def _send_data(self, connection: UpstreamConnection, go_ahead: Exchange[Reply | None]) -> None:
        self._data_sent = True
        go_ahead.replies = []
        connection.exchange(_DATA, go_ahead, self._pool.settings.command_timeout)

    def _data_answered(
        self, go_ahead: Exchange[Reply | None], replies: list[Reply], error: Exception | None
    ) -> None:
        if replies and replies[0].code == 421:
            error = UpstreamClosing(f"upstream answered DATA with {replies[0]}")
        if error is None:
            go_ahead.settle(self._data_refusal(replies[0]))
            return
        self._data_sent = False
        if self._mail.needs is None:  # the content was found to need no more than was offered
            self._mail = replace(self._mail, needs=EXTENSIONS & self._offered)
        recipients = Offer(self._answered, [])  # name those accepted again
        self._failed(recipients, error)
        go_ahead.after(self._send_data_after(recipients, go_ahead), go_ahead.fail)

    async def _send_data_after(self, recipients: Offer, go_ahead: Exchange[Reply | None]) -> None:
        await recipients
        if self._connection is None:
            raise UpstreamLost("given up before its answer")
        self._send_data(self._connection, go_ahead)

    def _data_refusal(self, reply: Reply) -> Reply | None:
        if reply.code == 354:
            return None
        if reply.code < 400:
            self._lose(UpstreamLost(f"upstream answered DATA with {reply}"))
            return UpstreamLost.reply
        self._data_sent = False
        self.abort()
        return _mirrored(reply)

    def send_content(self, content: Iterable[bytes]) -> Pending[Reply | None]:
        """Send dot-stuffed content with ended lines, and its end; the answer is the final reply.

        The answer is None if the upstream was slow to read it: the end goes with the next call. It
        is OSError if the content cannot be read: then it must not look complete.
        """
        connection = self._connection
        if connection is None:
            return Pending.failed(self._error or UpstreamLost("no transaction"))
        sent = ContentSent(self._content_answered)
        pieces = chain(content, self._end(connection, sent))
        connection.send_content(pieces, sent, self._pool.settings.data_timeout)
        return sent

    def _end(self, connection: UpstreamConnection, sent: ContentSent) -> Iterator[bytes]:
        """Yield the end of the content, after which the upstream may have accepted it."""
        if sent.slow:
            sent.unended = True
            return
        self.in_doubt = connection.alive
        yield _END

    def _content_answered(
        self, end: ContentSent, replies: list[Reply], error: Exception | None
    ) -> None:
        if error is not None:
            self._lose(error)
            end.fail(error)
            return
        reply = replies[0]
        self.in_doubt = False
        if reply.code < 300 and self._connection is not None:
            self._connection.resets = 0
        if reply.code == 421 or reply.code // 100 == 3:
            self._drop()
        else:
            self._release()
        end.settle(_mirrored(reply))

    def abort(self) -> None:
        """Give up the transaction; once DATA was sent, only closing the connection can do that."""
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

    async def _connect_and_begin(self, offer: Offer) -> None:
        self._begin_on(await self._pool.acquire(self._mail.owner), offer)

    def _begin_on(self, connection: UpstreamConnection, offer: Offer) -> None:
        """Begin on this connection; `_failed` takes another if this one turns out to be dead, or
        accepts no more messages."""
        self._connection = connection
        self._used = connection.used
        if self._mail.xclient_override and connection.capabilities.xclient:
            offer.after(self._introduce_and_send(connection, offer), partial(self._failed, offer))
        else:
            self._send_mail(connection, offer)

    async def _introduce_and_send(self, connection: UpstreamConnection, offer: Offer) -> None:
        if self._mail.client is not None:
            await connection.settled()
            await self._pool.introduce(connection, self._mail.client)
        self._send_mail(connection, offer)

    def _send_mail(self, connection: UpstreamConnection, offer: Offer) -> None:
        knows, mail = connection.capabilities, self._mail
        self._offered = offered = knows.keywords
        self.notifies = "DSN" in offered
        refusal = self.refusal_of(mail.needs) if mail.needs else None
        if not (mail.reverse_path.isascii() or UTF8 in offered):
            refusal = _NO_ADDRESS
        if refusal is None:
            opening = mail.commands(knows)
            offer.opening = len(opening)
            self._send(connection, offer, opening)
        else:
            self._release()
            self._refuse_mail(offer, refusal)

    def _send(self, connection: UpstreamConnection, offer: Offer, commands: list[bytes]) -> None:
        """Send MAIL (if any) and RCPTs, in one go if the upstream supports that."""
        knows, timeout = connection.capabilities, self._pool.settings.command_timeout
        if commands:
            offer.named = [*self.accepted, *offer.asked]
        named, utf8 = offer.named, UTF8 in self._offered
        commands += [rcpt_command(r, knows) for r in named if utf8 or r.forward_path.isascii()]
        offer.connection, offer.count, offer.replies = connection, len(commands), []
        if not commands:
            self._answered(offer, [], None)
        elif knows.pipelining:
            connection.exchange(b"".join(commands), offer, timeout)
        else:
            offer.after(self._send_each(connection, offer, commands), partial(self._failed, offer))

    def _answered(self, offer: Offer, replies: list[Reply], error: Exception | None) -> None:
        """Handle the replies to MAIL (if any) and RCPTs, or the error instead."""
        connection = self._connection
        if connection is None or connection is not offer.connection:
            offer.fail(error or UpstreamLost("given up before its answer"))
            return
        if replies and replies[-1].code == 421:
            error = UpstreamClosing(f"upstream answered {replies[-1]}")
        if error is not None:
            self._failed(offer, error)
            return
        connection.used = True
        named, opening = offer.named, offer.opening
        if opening:  # a refusal of XFORWARD does not matter
            first = replies[opening - 1]
            if self._used and not self._replaced and first.code // 100 == 4:
                connection.quit()  # MTAs limit the messages of a connection
                self._failed(offer, UpstreamLost(f"upstream answers MAIL with {first}"))
                return
            if first.code >= 300:
                connection.reset(self._pool.settings.command_timeout)
                self._release()
                self._refuse_mail(offer, _mirrored(first))
                return
        answers = list(map(_mirrored, replies[opening:]))
        if len(answers) < len(named):  # some were not sent
            sent = iter(answers)
            answers = [next(sent) if rcpt.forward_path.isascii() else _NO_ADDRESS for rcpt in named]
        before = len(named) - len(offer.asked)
        for reply in answers[:before]:
            if reply.code >= 300:  # the client already has a 250 for it
                lost = f"a recipient accepted earlier is now refused: {reply.code}"
                self._failed(offer, UpstreamError(lost))
                return
        answers = answers[before:]
        for rcpt, reply in zip(offer.asked, answers, strict=True):
            if reply.code < 300:
                self.accepted.append(rcpt)
        offer.settle(answers)

    def _refuse_mail(self, offer: Offer, refusal: Reply) -> None:
        self._mail_refusal = refusal
        if self.accepted:
            self._failed(
                offer, UpstreamError(f"MAIL accepted earlier is now refused: {refusal.code}")
            )
        else:
            offer.settle([refusal] * len(offer.asked))

    def _failed(self, offer: Offer, error: BaseException) -> None:
        """Fail, unless another connection will do, since no content was sent. One that ended is
        replaced by a new one, but only once. A new one that shows that the upstream takes no more
        there is replaced by any, until the pool gives up."""
        connection = self._connection
        if connection is not None and isinstance(error, UpstreamLost):
            full = not self._used and self._pool.takes_no_more(connection, error)
            if full or not self._replaced:
                self._replaced = self._replaced or not full
                connection.close()  # nobody else may have it
                again = self._begin_again(connection, offer, error if full else None)
                offer.after(again, partial(self._failed, offer))
                return
            self._pool.was_not_full()  # the message may have ended them all
        if isinstance(error, UpstreamError):
            self._lose(error)
        offer.fail(error)

    async def _begin_again(
        self, ended: UpstreamConnection, offer: Offer, full: UpstreamLost | None
    ) -> None:
        if self._connection is not ended:
            raise UpstreamLost("given up before its answer")
        self._connection = None
        self._begin_on(await self._pool.replace(ended, full), offer)

    async def _send_each(
        self, connection: UpstreamConnection, offer: Offer, commands: Sequence[bytes]
    ) -> None:
        """Send one command after the other, and none after a refused MAIL."""
        timeout = self._pool.settings.command_timeout
        replies: list[Reply] = []
        await connection.settled()
        for index, command in enumerate(commands):
            reply = await connection.command(command, timeout)
            replies.append(reply)
            if reply.code == 421 or (index == offer.opening - 1 and reply.code >= 300):
                break
        self._answered(offer, replies, None)

    def _release(self) -> None:
        """Give the connection back to the pool, which checks that it is alive."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._release()

    def _lose(self, error: Exception) -> None:
        """Drop the connection after an error: a partial message must not look whole."""
        if isinstance(error, UpstreamError):
            self._error = error
        self._drop()


def _mirrored(reply: Reply) -> Reply:
    """The client's reply: the upstream's, with an enhanced code if it had none (RFC 2034).

    A reply that does not answer the command is an internal failure, never the client's success.
    """
    if reply.code == 421:
        return UpstreamLost.reply
    if reply.enhanced is not None:
        return reply
    kind = reply.code // 100
    return UpstreamError.reply if kind == 3 else Reply.of(reply.code, f"{kind}.0.0", *reply.lines)
