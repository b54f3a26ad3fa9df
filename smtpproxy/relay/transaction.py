"""One mail transaction with the upstream, in lockstep with the client's."""

from __future__ import annotations  # of functions within functions: each costs a call

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from msgspec import Struct

from smtpproxy.mail.eight_bit import EIGHT_BIT, EXTENSIONS, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import (
    UpstreamClosing,
    UpstreamConnection,
    UpstreamError,
    UpstreamLost,
)
from smtpproxy.relay.exchange import ContentSent, Exchange, Offer
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.waiting import Pending
from smtpproxy.wire.client import Capabilities, rcpt_command
from smtpproxy.wire.commands import ClientInfo, Rcpt
from smtpproxy.wire.forwarding import xforward_command

_NO_ADDRESS = Reply.of(550, "5.6.7", "the next mail server does not take SMTPUTF8")
_NO_UTF8 = Reply.of(554, "5.6.9", "the next mail server does not take UTF-8 in header fields")
_NO_EIGHT_BIT = Reply.of(554, "5.6.3", "the next mail server does not take 8-bit content")

_DATA = b"DATA\r\n"
_END = b".\r\n"


class MailParameters(Struct, frozen=True):
    """The parts of the client's MAIL command that go to the upstream.

    `needs` are the extensions that the content needs, None while there is no content: until then
    nothing is refused, because the content may be ASCII.
    """

    reverse_path: str
    size: int | None = None
    eight_bit: bool = False
    utf8: bool = False
    ret: str | None = None
    envid: str | None = None
    client: ClientInfo | None = None  # for an upstream that trusts us about it
    xclient_override: bool = False  # XCLIENT named the client
    needs: frozenset[str] | None = None
    owner: str = ""  # the client that the connection counts for; empty: the relay

    def commands(self, knows: Capabilities) -> list[bytes]:
        """MAIL, after XFORWARD if supported. Unsupported parameters are left out."""
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

    def recipients(self, asked: Sequence[Rcpt]) -> Pending[list[Reply]]:
        """Offer recipients to the upstream; the first call sends MAIL before them."""
        if self._error is not None:
            return Pending.failed(self._error)
        if self._mail_refusal is not None:
            return Pending.settled([self._mail_refusal] * len(asked))
        if self._connection is not None:
            self._connection.end_hold()
            offer = Offer(self._answered, asked)
            offer.retries = 0  # the upstream has accepted MAIL
            self._send(self._connection, offer, [])
            return offer
        # If the connection was given back, the accepted recipients are offered again.
        offer = Offer(self._answered, [*self.accepted, *asked], len(self.accepted))
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
        """Refuse content that the upstream would garble (RFC 6531 3.5, RFC 6152 section 3)."""
        mail = self._mail
        if not (mail.utf8 or mail.eight_bit):
            return None
        lacking = needs - self._offered
        if mail.utf8 and UTF8 in lacking:
            return _NO_UTF8
        return _NO_EIGHT_BIT if EIGHT_BIT in lacking else None

    def begin_data(self) -> Pending[Reply | None]:
        """Send DATA. The answer is None if the upstream says 354, and then the content has to
        follow; otherwise it is the refusal. Raises UpstreamError if there is no transaction."""
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
        """Begin on this connection; `_failed` takes another if this one turns out to be dead, or to
        take no more messages."""
        offer.used, connection.used = connection.used, True
        self._connection = connection
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
        asked, utf8 = offer.asked, UTF8 in self._offered
        commands += [rcpt_command(r, knows) for r in asked if utf8 or r.forward_path.isascii()]
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
        asked, opening = offer.asked, offer.opening
        if opening:  # a refusal of XFORWARD does not matter
            first = replies[opening - 1]
            if offer.used and offer.retries and first.code // 100 == 4:
                connection.quit()  # MTAs limit the messages of a connection
                self._failed(offer, UpstreamLost(f"upstream answers MAIL with {first}"))
                return
            if first.code >= 300:
                connection.reset(self._pool.settings.command_timeout)
                self._release()
                self._refuse_mail(offer, _mirrored(first))
                return
        answers = list(map(_mirrored, replies[opening:]))
        if len(answers) < len(asked):  # some were not sent
            sent = iter(answers)
            answers = [next(sent) if rcpt.forward_path.isascii() else _NO_ADDRESS for rcpt in asked]
        if offer.before:
            for reply in answers[: offer.before]:
                if reply.code >= 300:  # the client already has a 250 for it
                    lost = f"a recipient accepted earlier is now refused: {reply.code}"
                    self._failed(offer, UpstreamError(lost))
                    return
            answers, asked = answers[offer.before :], asked[offer.before :]
        for rcpt, reply in zip(asked, answers, strict=True):
            if reply.code < 300:
                self.accepted.append(rcpt)
        offer.settle(answers)

    def _refuse_mail(self, offer: Offer, refusal: Reply) -> None:
        self._mail_refusal = refusal
        if offer.before:
            self._failed(
                offer, UpstreamError(f"MAIL accepted earlier is now refused: {refusal.code}")
            )
        else:
            offer.settle([refusal] * len(offer.asked))

    def _failed(self, offer: Offer, error: BaseException) -> None:
        """Fail, unless another connection may do: this one was used before, or is one too many for
        the upstream, which says 421 to it."""
        connection, pool = self._connection, self._pool
        lost = UpstreamLost if offer.used else UpstreamClosing
        if connection is not None and offer.retries and isinstance(error, lost):
            if offer.used:
                offer.retries = 0
            elif pool.in_use + pool.idle == 1:
                offer.retries -= 1  # it may say so to any
            full = None if offer.used else error
            offer.after(self._begin_again(connection, offer, full), partial(self._failed, offer))
            return
        if isinstance(error, UpstreamError):
            self._lose(error)
        offer.fail(error)

    async def _begin_again(
        self, ended: UpstreamConnection, offer: Offer, full: UpstreamError | None
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
