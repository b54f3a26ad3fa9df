"""SMTP command lines parsed to frozen records (RFC 5321 section 4.1).

A line is given without its CRLF. Anything wrong raises `CommandError`, which carries
the reply that names it.
"""

import base64
import re
from collections.abc import Sequence

from msgspec import Struct

from smtpproxy.mail.address import DOMAIN_LIMIT
from smtpproxy.mail.reply import Reply

COMMAND_LIMIT = 2048  # RFC 5321 4.5.3.1.4 asks for 512 at least, extensions add to it
AUTH_LIMIT = 12_288  # octets of a response, RFC 4954 section 4.1


class CommandError(Exception):
    """A command that cannot be taken, with the reply that says why."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply.of(code, enhanced, text)


class Hello(Struct, frozen=True):
    """EHLO or LHLO (`extended`), or HELO."""

    domain: str
    extended: bool


class Mail(Struct, frozen=True):
    """MAIL FROM. `reverse_path` has no brackets and is empty for `<>`."""

    reverse_path: str
    size: int | None = None
    body: str | None = None  # 7BIT or 8BITMIME
    smtputf8: bool = False
    ret: str | None = None  # of the DSN extension, as it came
    envid: str | None = None
    prdr: bool = False  # each recipient is to have a reply of its own after the content


class Rcpt(Struct, frozen=True):
    """RCPT TO. `forward_path` has no brackets."""

    forward_path: str
    notify: str | None = None  # of the DSN extension, as it came
    orcpt: str | None = None


class Data(Struct, frozen=True):
    """DATA, in its right place: at least one recipient was accepted."""


class Reset(Struct, frozen=True):
    """RSET."""


class Quit(Struct, frozen=True):
    """QUIT."""


class StartTls(Struct, frozen=True):
    """STARTTLS, in its right place and with nothing behind it."""


class Auth(Struct, frozen=True):
    """AUTH with a mechanism that is offered. `initial` is decoded; None where there is none."""

    mechanism: str
    initial: bytes | None = None


class AuthResponse(Struct, frozen=True):
    """The client's line to a challenge, decoded; None when it cancels with `*`."""

    data: bytes | None


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of other octets
_HELO_DOMAIN = re.compile(r"[^\x00-,/;-@\\^`{-\x7f]+")  # of ASCII: letters, digits, `-._:[]`


def check_characters(verb: str, text: str) -> None:
    """Refuse what no command may hold. `text` is decoded with surrogateescape."""
    if _CONTROL.search(text):
        raise CommandError(501, "5.5.2", "a command cannot hold control characters")
    if _NOT_UTF8.search(text):
        raise CommandError(501, "5.5.2", "a command must be ASCII or UTF-8")
    if not verb.isascii():
        raise unknown()


def unknown() -> CommandError:
    return CommandError(500, "5.5.1", "command not recognised; HELP lists them")


def no_argument(verb: str, argument: str) -> None:
    if argument.strip(" "):
        raise CommandError(501, "5.5.4", f"{verb} takes no argument")


def parse_hello(verb: str, argument: str) -> Hello:
    """Parse what follows EHLO, HELO or LHLO. Syntax is checked loosely, as RFC 5321 4.1.4 asks."""
    domain = argument.strip(" ")
    if not _HELO_DOMAIN.fullmatch(domain) or len(domain.encode()) > DOMAIN_LIMIT:
        raise CommandError(501, "5.5.4", f"{verb} needs a domain or an address literal")
    return Hello(domain, verb != "HELO")


def parse_auth(argument: str, mechanisms: Sequence[str]) -> Auth:
    """Parse `MECHANISM [initial-response]` (RFC 4954 section 4)."""
    mechanism, _, initial = argument.strip(" ").partition(" ")
    mechanism = mechanism.upper()
    if not mechanism:
        raise CommandError(501, "5.5.4", "syntax: AUTH mechanism")
    if mechanism not in mechanisms:
        raise CommandError(504, "5.5.4", f"mechanism not offered; use {', '.join(mechanisms)}")
    if not initial:
        return Auth(mechanism)
    return Auth(mechanism, b"" if initial == "=" else _decoded(initial))


def parse_auth_response(line: bytes) -> AuthResponse:
    """Parse a line that answers a 334: base64, or `*`."""
    return AuthResponse(None if line == b"*" else _decoded(line))


def _decoded(encoded: str | bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error, or what is not ASCII
        raise CommandError(501, "5.5.2", "cannot decode the base64 of the response") from None
