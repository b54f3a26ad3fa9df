"""What an SMTP session knows about its client, and how it begins a message."""

import asyncio
from base64 import b64encode
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict, replace

from smtpproxy.auth import Authenticator, network_of
from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.core.services import StreamTable
from smtpproxy.events import Authentication, AuthOutcome, Client, Emit
from smtpproxy.intake import replies
from smtpproxy.intake.listener import Listener
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.settings import Credential, ListenerSettings
from smtpproxy.tls import peer as certificate_of
from smtpproxy.wire.commands import Auth, AuthResponse, ClientInfo, Mail
from smtpproxy.wire.sasl import Challenge, Mechanism
from smtpproxy.wire.server import ServerConnection

_NO_INFO = ClientInfo()


class Sender(Struct, frozen=True):
    """The sender of the next message, in the forms that a transaction needs."""

    client: Client
    info: ClientInfo  # for an upstream that trusts us
    owner: str  # the client that the upstream connection counts for
    overridden: bool  # by XCLIENT
    suffix: str  # for the protocol in Received: S in TLS, A authenticated (RFC 3848)


class Identity:
    """A client. `login` is empty until it has authenticated."""

    __slots__ = (
        *("_authenticated", "_xclient", "_xforward", "_listener", "_sender", "_streams"),
        *("credential", "helo", "login", "peer", "secure"),
    )

    def __init__(self, listener: str, streams: StreamTable) -> None:
        self.peer = "unix"
        self.helo = ""
        self.login = ""
        self.secure = False
        self.credential: Credential | None = None
        self._authenticated = False
        self._listener = listener
        self._streams = streams
        self._xclient = _NO_INFO  # by XCLIENT: replaces the connected host
        self._xforward = _NO_INFO  # by XFORWARD: only for the next message
        self._sender: Sender | None = None  # None: something above has changed

    @property
    def sender(self) -> Sender:
        """The sender of the next message; a trusted host's word counts."""
        if self._sender is None:
            self._sender = self._sender_now()
        return self._sender

    def _sender_now(self) -> Sender:
        forward, xclient, peer = self._xforward, self._xclient, self.address
        helo = forward.helo or self.helo
        info = ClientInfo(
            address=None if peer == "unix" else peer,
            name=forward.name or xclient.name or "",
            port=forward.port or xclient.port,
            protocol=forward.protocol or xclient.protocol or "ESMTP",
            helo=helo,
            login=xclient.login,
            ident=forward.ident,
            source=forward.source or "REMOTE",
        )
        return Sender(
            Client(self._listener, peer, helo, self.login),
            info,
            network_of(peer),
            xclient != _NO_INFO,
            f"{'S' * self.secure}{'A' * self._authenticated}",
        )

    @property
    def address(self) -> str:
        """The address that the next message comes from; a trusted host's word counts."""
        return self._xforward.address or self._xclient.address or self.peer

    def connected(self, peer: str) -> None:
        self.peer = peer
        self._sender = None

    def greeted(self, helo: str) -> None:
        self.helo = helo
        self._sender = None

    def apply_xclient(self, info: ClientInfo) -> None:
        """Continue as the client that XCLIENT names, which greets next."""
        self._xclient = info
        self._xforward = _NO_INFO
        self._sender = None
        if info.login is not None:
            self._log_out()
        if info.login:
            self.authenticated(info.login)

    def apply_xforward(self, info: ClientInfo) -> None:
        """Add what XFORWARD says about the sender of the next message."""
        given = {name: value for name, value in asdict(info).items() if value is not None}
        self._xforward = replace(self._xforward, **given)
        self._sender = None

    def forget_forwarded(self) -> None:
        if self._xforward is not _NO_INFO:
            self._xforward = _NO_INFO
            self._sender = None

    def secured(self, transport: asyncio.BaseTransport) -> bool:
        """Begin TLS: forget the login; return whether a certificate identifies the client."""
        self.secure = True
        self._log_out()
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        certificate = certificate_of(shown) if shown else None
        if certificate is not None:
            self.credential = self._streams.of_certificate(
                certificate.fingerprint, certificate.subject
            )
        if self.credential is None:
            return False
        self.login = self.credential.name
        return True

    def _log_out(self) -> None:
        self.login, self._authenticated, self.credential = "", False, None
        self._sender = None

    def authenticated(self, user: str) -> None:
        """Continue as an authenticated user, whose rights replace those of a certificate."""
        self.login = user
        self._authenticated = True
        self._sender = None
        self.credential = self._streams.of_user(user)


_REPLIES: dict[AuthOutcome, Reply] = {
    "ok": Reply.of(235, "2.7.0", "authenticated"),
    "failed": Reply.of(535, "5.7.8", "user name or password is wrong"),
    "malformed": Reply.of(501, "5.5.2", "not a valid response for this mechanism"),
    "cancelled": Reply.of(501, "5.7.0", "authentication cancelled"),
    "limited": Reply.of(454, "4.7.0", "too many failures; try again later"),
    "busy": Reply.of(454, "4.7.0", "too many clients are authenticating; try again"),
}


class AuthDialog:
    """The SASL exchanges of one session. `user` is set by the line that completes one
    successfully."""

    def __init__(self, authenticator: Authenticator, listener: str, peer: str, emit: Emit) -> None:
        self.user = ""
        self._authenticator = authenticator
        self._settings = authenticator.settings
        self._listener = listener
        self._peer = peer
        self._emit = emit
        self._mechanism = ""
        self._machine: Mechanism | None = None
        self._failures = 0

    @property
    def given_up(self) -> bool:
        """Whether this session has failed too often."""
        return self._failures >= self._settings.max_failures_per_session

    async def reply(self, event: Auth | AuthResponse) -> Reply:
        """Return the reply to the next line of an exchange."""
        self.user = ""
        if isinstance(event, Auth):
            self._mechanism = event.mechanism
            if self._authenticator.barred(self._peer):
                return self._ended("limited")
            self._machine = self._authenticator.begin(event.mechanism)
            response = event.initial
        else:
            response = event.data
            if response is None:
                return self._ended("cancelled")
        if self._machine is None:
            raise RuntimeError("a response without a challenge")
        found = await self._authenticator.judge(self._machine.step(response), self._peer)
        if isinstance(found, Challenge):
            return Reply.of(334, None, b64encode(found.data).decode())
        if found.result == "failed":
            await asyncio.sleep(self._settings.failure_delay)
        self.user = found.user
        return self._ended(found.result)

    def _ended(self, outcome: AuthOutcome) -> Reply:
        self._machine = None
        self._failures += outcome in ("failed", "malformed", "limited")
        self._emit(Authentication(self._listener, self._peer, self._mechanism, outcome))
        return _REPLIES[outcome]


_PROTOCOLS = {
    (False, False): "ESMTP",
    (False, True): "UTF8SMTP",
    (True, False): "LMTP",
    (True, True): "UTF8LMTP",
}
"""The protocol in the Received field, by whether it is LMTP and whether SMTPUTF8 (RFC 3848,
6531)."""
_UNHURRIED = 60.0
"""Seconds at the start of content without a minimum rate, for apps that generate it."""


def begin(
    listener: Listener, client: Identity, mail: Mail, engine: ServerConnection
) -> RelayTransaction:
    """Begin the transaction of an accepted MAIL."""
    sender, reverse_path = client.sender, mail.reverse_path
    utf8, lmtp = mail.smtputf8, engine.terms.lmtp
    return RelayTransaction(
        listener.services,
        sender.client,
        MailParameters(
            reverse_path,
            mail.size,
            mail.body == "8BITMIME",
            utf8,
            mail.ret,
            mail.envid,
            sender.info,
            sender.overridden,
            None,
            sender.owner,
        ),
        listener.streams.choice(listener.settings.name, reverse_path, client.credential),
        _PROTOCOLS[lmtp, utf8] + sender.suffix if engine.extended else "SMTP",
        "each" if lmtp or mail.prdr else None,
    )


def content_timeout(settings: ListenerSettings, size: int) -> float:
    """How many seconds content may take if `size` octets of it have come."""
    rate, most = settings.min_data_rate, settings.data_timeout
    return min(_UNHURRIED + size / rate, most) if rate else most


def final(engine: ServerConnection, answers: Sequence[Reply], mail: Mail | None) -> bytes:
    """Answer the end of content, from a reply for each recipient."""
    if engine.terms.lmtp:
        return engine.answer_each(answers)
    if mail is not None and mail.prdr:
        return engine.answer_each(answers, final=replies.for_all(answers))
    return engine.answer(answers[0])
