"""What a session knows of its client: where it is, what it calls itself, what it proved."""

import asyncio

from msgspec.structs import asdict, replace

from smtpproxy.core.streams import StreamChoice, StreamTable, permits
from smtpproxy.events import Client
from smtpproxy.settings import Credential
from smtpproxy.tls import peer as certificate_of
from smtpproxy.wire.forwarding import Told

_NOT_TOLD = Told()


class Identity:
    """A client. `login` is empty while it has proven nothing."""

    def __init__(self, listener: str, streams: StreamTable) -> None:
        self.peer = "unix"
        self.helo = ""
        self.login = ""
        self.secure = False
        self._authenticated = False
        self._listener = listener
        self._streams = streams
        self._credential: Credential | None = None
        self._behind = Told()  # by XCLIENT: it takes the place of who is connected
        self._forwarded = Told()  # by XFORWARD: of the next message alone

    @property
    def record(self) -> Client:
        """Who sends the next message; what a trusted host told counts."""
        helo = self._forwarded.helo or self.helo
        return Client(self._listener, self.address, helo, self.login)

    @property
    def told(self) -> Told:
        """What an upstream that believes us is told of the client."""
        told, behind, peer = self._forwarded, self._behind, self.address
        return Told(
            address=None if peer == "unix" else peer,
            name=told.name or behind.name or "",
            port=told.port or behind.port,
            protocol=told.protocol or behind.protocol or "ESMTP",
            helo=told.helo or self.helo,
            login=behind.login,
            ident=told.ident,
            source=told.source or "REMOTE",
        )

    @property
    def address(self) -> str:
        """Where the next message comes from; what a trusted host told counts."""
        return self._forwarded.address or self._behind.address or self.peer

    @property
    def credential(self) -> Credential | None:
        return self._credential

    @property
    def in_its_place(self) -> bool:
        """Whether XCLIENT said that the session is another client's."""
        return self._behind != _NOT_TOLD

    def put_in_place(self, told: Told) -> None:
        """XCLIENT: from now on the session is that of the client it names."""
        self._behind = told
        self._forwarded = Told()
        self.helo = told.helo or ""
        if told.login is not None:
            self.login, self._authenticated, self._credential = "", False, None
        if told.login:
            self.proven(told.login)

    def forwarded(self, told: Told) -> None:
        """XFORWARD: add to what is known of who sends the next message."""
        given = {name: value for name, value in asdict(told).items() if value is not None}
        self._forwarded = replace(self._forwarded, **given)

    def forget_forwarded(self) -> None:
        self._forwarded = Told()

    def secured(self, transport: asyncio.BaseTransport) -> bool:
        """TLS begins: forget the greeting; return whether a certificate says who it is."""
        self.secure = True
        self.helo = ""
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        certificate = certificate_of(shown) if shown else None
        if certificate is not None:
            self._credential = self._streams.of_certificate(
                certificate.fingerprint, certificate.subject
            )
        if self._credential is None:
            return False
        self.login = self._credential.name
        return True

    def proven(self, user: str) -> None:
        """AUTH succeeded: what the user may do counts, not what a certificate might."""
        self.login = user
        self._authenticated = True
        self._credential = self._streams.of_user(user)

    def may_send_from(self, reverse_path: str) -> bool:
        return self._credential is None or permits(self._credential, reverse_path)

    def choice(self, reverse_path: str) -> StreamChoice:
        return self._streams.choice(self._listener, reverse_path, self._credential)

    def protocol(self, *, extended: bool, smtputf8: bool, lmtp: bool = False) -> str:
        """Return what the Received field says it came by (RFC 3848, 6531)."""
        if not extended:
            return "SMTP"
        name = ("UTF8LMTP" if smtputf8 else "LMTP") if lmtp else "UTF8SMTP" if smtputf8 else "ESMTP"
        return f"{name}{'S' * self.secure}{'A' * self._authenticated}"
