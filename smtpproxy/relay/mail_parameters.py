"""What the client's MAIL command asked for, passed to an upstream that may not offer all of it."""

from msgspec import Struct

from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.wire.client import Capabilities
from smtpproxy.wire.commands import ClientInfo
from smtpproxy.wire.forwarding import xforward_command

_NO_UTF8 = Reply.of(554, "5.6.9", "the next mail server does not accept UTF-8 in header fields")
_NO_EIGHT_BIT = Reply.of(554, "5.6.3", "the next mail server does not accept 8-bit content")


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
    client: ClientInfo | None = None  # for an upstream that trusts us
    xclient_override: bool = False  # XCLIENT named the client
    needs: frozenset[str] | None = None
    owner: str = ""  # whose share the connection counts towards; empty: the relay's

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

    def refusal(self, needs: frozenset[str], offered: frozenset[str]) -> Reply | None:
        """Refuse content that the upstream would garble (RFC 6531 3.5, RFC 6152 section 3)."""
        if not (self.utf8 or self.eight_bit):
            return None
        lacking = needs - offered
        if self.utf8 and UTF8 in lacking:
            return _NO_UTF8
        return _NO_EIGHT_BIT if EIGHT_BIT in lacking else None
