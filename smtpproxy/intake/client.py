"""What an SMTP session knows of its client: where it is, what it calls itself, what it proved;
and the message that it begins.
"""

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
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.settings import Credential, ListenerSettings
from smtpproxy.tls import peer as certificate_of
from smtpproxy.wire.commands import Auth, AuthResponse, ClientInfo, Mail
from smtpproxy.wire.sasl import Challenge, Mechanism
from smtpproxy.wire.server import ServerConnection

_NO_INFO = ClientInfo()


class Sender(Struct, frozen=True):
    """Who sends the next message, in each of the forms that a transaction needs."""

    client: Client
    told: ClientInfo  # for an upstream that believes us
    owner: str  # whom the upstream connection counts for
    overridden: bool  # XCLIENT said so
    suffix: str  # of the protocol in the Received field: S in TLS, A authenticated (RFC 3848)


class Identity:
    """A client. `login` is empty while it has proven nothing."""

    __slots__ = (
        *("_authenticated", "_behind", "_forwarded", "_listener", "_sender", "_streams"),
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
        self._behind = _NO_INFO  # by XCLIENT: it takes the place of who is connected
        self._forwarded = _NO_INFO  # by XFORWARD: of the next message alone
        self._sender: Sender | None = None  # None: something of the above has changed

    @property
    def sender(self) -> Sender:
        """Who sends the next message; what a trusted host told counts."""
        if self._sender is None:
            self._sender = self._sender_now()
        return self._sender

    def _sender_now(self) -> Sender:
        told, behind, peer = self._forwarded, self._behind, self.address
        helo = told.helo or self.helo
        info = ClientInfo(
            address=None if peer == "unix" else peer,
            name=told.name or behind.name or "",
            port=told.port or behind.port,
            protocol=told.protocol or behind.protocol or "ESMTP",
            helo=helo,
            login=behind.login,
            ident=told.ident,
            source=told.source or "REMOTE",
        )
        return Sender(
            Client(self._listener, peer, helo, self.login),
            info,
            network_of(peer),
            behind != _NO_INFO,
            f"{'S' * self.secure}{'A' * self._authenticated}",
        )

    @property
    def address(self) -> str:
        """Where the next message comes from; what a trusted host told counts."""
        return self._forwarded.address or self._behind.address or self.peer

    def connected(self, peer: str) -> None:
        self.peer = peer
        self._sender = None

    def greeted(self, helo: str) -> None:
        self.helo = helo
        self._sender = None

    def put_in_place(self, told: ClientInfo) -> None:
        """XCLIENT: from now on the session is that of the client it names."""
        self._behind = told
        self._forwarded = _NO_INFO
        self._sender = None
        self.helo = told.helo or ""
        if told.login is not None:
            self.login, self._authenticated, self.credential = "", False, None
        if told.login:
            self.proven(told.login)

    def forwarded(self, told: ClientInfo) -> None:
        """XFORWARD: add to what is known of who sends the next message."""
        given = {name: value for name, value in asdict(told).items() if value is not None}
        self._forwarded = replace(self._forwarded, **given)
        self._sender = None

    def forget_forwarded(self) -> None:
        if self._forwarded is not _NO_INFO:
            self._forwarded = _NO_INFO
            self._sender = None

    def secured(self, transport: asyncio.BaseTransport) -> bool:
        """TLS begins: forget the greeting; return whether a certificate says who it is."""
        self.secure = True
        self.helo = ""
        self._sender = None
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

    def proven(self, user: str) -> None:
        """AUTH succeeded: what the user may do counts, not what a certificate might."""
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
    """The exchanges of one session. `user` is set once one has succeeded."""

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
"""What the Received field says a message came by, by whether it is LMTP and in SMTPUTF8 (RFC 3848,
6531)."""
_UNHURRIED = 60.0
"""Seconds of content that count for no rate: an app may make its message while it sends it."""


def begin(
    listener: Listener, client: Identity, mail: Mail, engine: ServerConnection
) -> RelayTransaction:
    """Begin the transaction of a MAIL that was answered."""
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
            sender.told,
            sender.overridden,
            None,
            sender.owner,
        ),
        listener.streams.choice(listener.settings.name, reverse_path, client.credential),
        _PROTOCOLS[lmtp, utf8] + sender.suffix if engine.extended else "SMTP",
        "each" if lmtp or mail.prdr else None,
    )


def content_timeout(settings: ListenerSettings, size: int) -> float:
    """How many seconds content may take of which `size` octets have come."""
    rate, most = settings.min_data_rate, settings.data_timeout
    return min(_UNHURRIED + size / rate, most) if rate else most


def final(engine: ServerConnection, answers: Sequence[Reply], mail: Mail | None) -> bytes:
    """The answer to the end of content, from a reply for each recipient."""
    if engine.terms.lmtp:
        return engine.answer_each(answers)
    if mail is not None and mail.prdr:
        return engine.answer_each(answers, final=replies.for_all(answers))
    return engine.answer(answers[0])
