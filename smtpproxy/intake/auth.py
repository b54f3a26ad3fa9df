"""AUTH in an SMTP session: the replies to an exchange (RFC 4954)."""

import asyncio
from base64 import b64encode

from smtpproxy.auth.authenticator import Authenticator
from smtpproxy.events import Authentication, AuthOutcome, Emit
from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Auth, AuthResponse
from smtpproxy.wire.sasl import Challenge, Mechanism

_REPLIES: dict[AuthOutcome, Reply] = {
    "ok": Reply.of(235, "2.7.0", "authenticated"),
    "failed": Reply.of(535, "5.7.8", "user name or password is wrong"),
    "malformed": Reply.of(501, "5.5.2", "that is no response of this mechanism"),
    "cancelled": Reply.of(501, "5.7.0", "authentication cancelled"),
    "limited": Reply.of(454, "4.7.0", "too many failures; try again later"),
    "busy": Reply.of(454, "4.7.0", "too many clients authenticate now; try again"),
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
            return Reply(334, None, (b64encode(found.data).decode(),))
        if found.result == "failed":
            await asyncio.sleep(self._settings.failure_delay)
        self.user = found.user
        return self._ended(found.result)

    def _ended(self, outcome: AuthOutcome) -> Reply:
        self._machine = None
        self._failures += outcome in ("failed", "malformed", "limited")
        self._emit(Authentication(self._listener, self._peer, self._mechanism, outcome))
        return _REPLIES[outcome]
