"""The SMTP intake: one session between a client and the upstream."""

from __future__ import annotations  # those of nested functions would each cost a call

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.core.services import permits
from smtpproxy.events import Failed, SenderRefused
from smtpproxy.intake import replies
from smtpproxy.intake.client import AuthDialog, Identity, begin, content_timeout, final
from smtpproxy.intake.limits import Refusal
from smtpproxy.intake.listener import FIRST_WITHIN, Listener
from smtpproxy.intake.session import BUSY, UNREAD, Session
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.content import Content
from smtpproxy.waiting import NEVER, Pending
from smtpproxy.wire.commands import (
    Auth,
    AuthResponse,
    Data,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
    StartTls,
    XClient,
    XForward,
)
from smtpproxy.wire.forwarding import XCLIENT, XCLIENT_WITHOUT_LOGIN, XFORWARD
from smtpproxy.wire.server import ServerConnection
from smtpproxy.wire.session import (
    Answered,
    Broken,
    ContentBegins,
    ContentChunk,
    ContentProblem,
    EndOfContent,
    Signal,
    State,
)
from smtpproxy.wire.verbs import NOOP, TOO_MANY_RECIPIENTS, TOO_MANY_REFUSED

_MAIL = State.MAIL  # an Enum's members are slow to look up
_LAST_WORD = 1.0
"""Seconds that a client whose message was answered has for its QUIT: some libraries take a 421
there as the loss of the message, and send it again."""


class SmtpSession(Session):
    """One client connection."""

    lingering = frozenset(
        {
            *("bare_newline", "line_too_long", "pipelining", "chunk_size"),
            *("timeout", "slow", "errors"),
        }
    )

    __slots__ = (
        *("_asked", "_auth", "_client", "_content", "_content_began", "_errors", "_mail"),
        *("_served", "_spool_failed", "_transaction"),
    )

    _engine: ServerConnection

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._engine = ServerConnection(listener.terms)
        self._client = Identity(listener.settings.name, listener.streams)
        self._auth: AuthDialog | None = None
        self._transaction: RelayTransaction | None = None
        self._mail: Mail | None = None
        self._asked = 0  # recipients without an answer yet
        self._content: Content | None = None
        self._content_began = 0.0
        self._spool_failed = False
        self._errors = 0
        self._served = False  # a message was answered

    # asyncio.Protocol

    def _refused(self, refusal: Refusal) -> None:
        self._write(replies.REFUSED[refusal].encode())

    def _admitted(self) -> None:
        self._client.connected(self._peer)
        if self._listener.takes_xclient(self._peer):
            believed = self._listener.believes_logins(self._peer)
            self._engine.offer(XCLIENT if believed else XCLIENT_WITHOUT_LOGIN, XFORWARD)
        if self._settings.tls == "implicit":  # after the handshake
            self._engine.now_secure(authenticated=self._client.secured(self._transport))
        if self._settings.early_commands == "refuse":
            self.at = self._began + self._settings.command_timeout
            self._stops |= BUSY
            later = asyncio.get_running_loop().call_soon
            later(later, later, self._greet)  # meanwhile early input is read
        else:
            self._write(self._listener.terms.greeting)

    def _greet(self) -> None:
        """Greet the client, unless it has sent input before the greeting."""
        self._stops &= ~BUSY
        early = self._engine.early_input()
        if early is None:
            self._write(self._listener.terms.greeting)
        else:
            self._broken(early)
        self._handle_events()

    def eof_received(self) -> bool:
        self._eof = True
        self._handle_events()
        return not self._client.secure  # earlier input is still answered; TLS cannot do that

    # the session

    def _in_message(self) -> bool:
        return self._engine.in_transaction

    def _drain_timeout(self) -> float:
        return _LAST_WORD if self._served else FIRST_WITHIN

    def _send_shutdown(self) -> None:
        self._write(replies.SHUTDOWN.encode())

    def _send_internal_failure(self) -> None:
        self._write(replies.INTERNAL.encode())

    def cut(self) -> None:
        if self._securing:
            self._transport.abort()
        super().cut()

    def _set_deadline(self, taken: int) -> None:
        """Set the deadline from the last complete command, whatever trickles in."""
        if self._content is None and (taken or self.at == NEVER):
            self.at = self._now() + self._settings.command_timeout

    def _start_tls(self, event: StartTls) -> None:
        """Change to TLS, and forget whatever was known before (RFC 3207 4.2)."""
        self._answer(replies.GO_SECURE)
        if self._transport.is_closing():
            return
        self._abort()
        self._securing = True
        self._read(False)  # what follows is the handshake
        self._wait_for(Pending.of(self._secure()), Pending.result)

    async def _secure(self) -> None:
        handshakes = self._listener.handshakes
        if handshakes is None:
            raise RuntimeError("STARTTLS on a listener without TLS")
        transport = await handshakes.upgrade(self._transport, self, self._client.peer)
        self._securing = False  # in this turn of the loop: only input before TLS is discarded
        if transport is None:
            self._end("tls")
            return
        self._transport = transport
        self._reading = True
        self._stops &= ~UNREAD
        self._engine.now_secure(authenticated=self._client.secured(transport))

    def _authenticate(self, event: Auth | AuthResponse) -> None:
        listener = self._listener
        if self._auth is None:
            if listener.authenticator is None:
                raise RuntimeError("AUTH on a listener without users")
            self._auth = AuthDialog(
                listener.authenticator,
                self._settings.name,
                self._client.peer,
                listener.services.emit,
            )
        self._wait_for(Pending.of(self._auth.reply(event)), self._judged)

    def _judged(self, answer: Pending[Reply]) -> None:
        reply, dialog = answer.result(), self._auth
        if dialog is not None and dialog.user:
            self._client.authenticated(dialog.user)
        self._answer(reply)
        if dialog is not None and dialog.given_up:
            self._write(replies.TOO_MANY_FAILURES.encode())
            self._end("errors")

    def _mail_from(self, mail: Mail) -> None:
        listener, client = self._listener, self._client
        if self._engine.state is _MAIL:  # it abandons the open transaction
            self._abort()
        if listener.draining and self._served:
            self._shut_down()
            return
        credential = client.credential
        if credential is not None and not permits(credential, mail.reverse_path):
            listener.services.emit(SenderRefused(self._settings.name, client.peer))
            self._answer(replies.SENDER_REFUSED)
            return
        if listener.rates is not None:
            limit = listener.rates.message(client.address, credential)
            if limit is not None:
                self._limited(limit)
                self._answer(replies.RATE_LIMIT)
                return
        self._mail = mail
        self._answer(replies.SENDER_OK)

    def _data(self, data: Data) -> None:
        self._content_begins()
        self._answer(replies.GO_AHEAD)

    def _content_begins(self, begins: ContentBegins | None = None) -> None:
        self._content = Content(self._listener.spool)
        self._spool_failed = False
        self._content_began = self._now()
        self.at = self._content_began + content_timeout(self._settings, 0)
        if begins is not None:  # BDAT: its octets may come in a packet of their own
            self._acknowledge()

    def _part(self, chunk: ContentChunk) -> None:
        self._chunk(chunk)
        self._acknowledge()

    def _chunk(self, chunk: ContentChunk | EndOfContent) -> None:
        content = self._content
        if content is None or self._spool_failed:
            return
        try:
            content.append(chunk.data)
        except OSError as error:
            self._spool_failed = True
            self._listener.services.emit(Failed(self._settings.name, "spool", str(error)))

    def _hello(self, hello: Hello) -> None:
        self._abort()
        self._client.greeted(hello.domain)
        self._answer(self._engine.hello_reply(hello))

    def _reset(self, reset: Reset) -> None:
        self._abort()
        self._answer(replies.OK)

    def _xclient(self, event: XClient) -> None:
        self._client.apply_xclient(event.client)
        self._write(self._engine.answer(replies.AS_CLIENT))

    def _xforward(self, event: XForward) -> None:
        self._client.apply_xforward(event.client)
        self._answer(replies.OK)

    def _quit(self, quit: Quit) -> None:
        self._answer(replies.BYE)
        self._end("quit")

    def _answered(self, answered: Answered) -> None:
        over = self._listener.draining and self._served and not self._in_message()
        if over and answered is NOOP:  # from a client's pool that checks before its next message
            self._shut_down()
            return
        if self._transaction is not None and not self._in_message():
            self._abort()  # abandoned by a MAIL that could not be read
        self._write(answered.data)
        if answered is TOO_MANY_RECIPIENTS:
            self._limited("recipients")
        elif answered is TOO_MANY_REFUSED:
            self._limited("refused_recipients")
        if answered.error:
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                self._write(replies.TOO_MANY_ERRORS.encode())
                self._end("errors")

    def _broken(self, broken: Broken) -> None:
        self._write(broken.data)
        self._end(broken.cause)

    def _recipients(self, first: Rcpt) -> None:
        """Judge all the recipients that have arrived together in one step."""
        asked, engine = [first], self._engine
        while not engine.idle and isinstance(event := engine.next_event(), Rcpt):
            asked.append(event)
        self._asked = len(asked)
        rates = self._listener.rates
        if rates is not None:
            client = self._client
            count, limit = rates.recipients(client.address, client.credential, self._asked)
            if limit is not None:
                self._limited(limit)
            asked = asked[:count]
        transaction = self._transaction
        if transaction is None:
            assert self._mail is not None
            transaction = begin(self._listener, self._client, self._mail, engine)
            self._transaction = transaction
        if asked:
            steps = transaction.recipients(asked)
            self._wait_for(self._listener.run(steps, transaction.spent), self._answer_recipients)
        else:
            self._answer_recipients(Pending.settled([]))

    def _answer_recipients(self, answer: Pending[list[Reply]]) -> None:
        """Answer the judged recipients, and the others, which the rate does not permit."""
        answers = answer.result()
        if len(answers) < self._asked:
            answers = answers + [replies.RATE_LIMIT] * (self._asked - len(answers))
        self._write(b"".join(map(self._engine.answer, answers)))

    def _end_of_content(self, end: EndOfContent) -> None:
        if end.data:
            self._chunk(end)
        transaction, content, mail = self._transaction, self._content, self._mail
        if transaction is None or content is None:
            raise RuntimeError("end of content without a transaction")
        self._transaction = self._content = None
        self._served = True
        self._client.forget_forwarded()

        def answered(answer: Pending[list[Reply]]) -> None:
            try:
                self._write(final(self._engine, answer.result(), mail))
            except BaseException:
                transaction.abort()
                raise
            finally:
                content.close()

        if end.problem is not None or self._spool_failed:
            transaction.abort()
            refusal = self._content_refusal(end.problem)
            self._wait_for(Pending.settled([refusal] * transaction.accepted), answered)
        else:
            steps = transaction.message(content, self._is_connected)
            self._wait_for(self._listener.run(steps, transaction.spent), answered)

    def _is_connected(self) -> bool:
        """Whether the client is still connected, as far as is known."""
        return not self._eof and not self._transport.is_closing()

    def _content_refusal(self, problem: ContentProblem | None) -> Reply:
        """The reply to unacceptable content; without a problem, the spool failed."""
        if problem is None:
            return replies.NO_SPACE
        if problem in replies.LIMITED:
            self._limited(replies.LIMITED[problem])
        return replies.content_problem(problem, self._listener.header_limits)

    def _answer(self, reply: Reply) -> None:
        self._write(self._engine.answer(reply))

    def _abort(self) -> None:
        """Drop the open transaction, if any, which has not been mailed."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        if self._content is not None:  # chunks without a last one
            self._content.close()
            self._content = None
        self._mail = None
        self._client.forget_forwarded()

    def _expired(self) -> None:
        cause = "timeout"
        if self._content is not None:  # the rate is checked only when its time is up
            allowed = content_timeout(self._settings, self._engine.content_size)
            if self._now() < self._content_began + allowed:
                self.at = self._content_began + allowed
                return
            cause = "slow" if allowed < self._settings.data_timeout else "timeout"
        self._write(replies.TIMEOUT.encode())
        self._end(cause)

    def _give_up(self) -> None:
        self._abort()

    handlers: ClassVar[Mapping[type, Callable[[Any, Any], None] | None]] = {
        Mail: _mail_from,
        Rcpt: _recipients,
        Data: _data,
        ContentBegins: _content_begins,
        ContentChunk: _part,
        EndOfContent: _end_of_content,
        Hello: _hello,
        Reset: _reset,
        Quit: _quit,
        XClient: _xclient,
        XForward: _xforward,
        Answered: _answered,
        StartTls: _start_tls,
        Auth: _authenticate,
        AuthResponse: _authenticate,
        Broken: _broken,
        Signal: None,
    }
