"""SMTP command lines parsed to frozen records (RFC 5321 section 4.1).

A line is given without its CRLF. Anything wrong raises `CommandError`, which carries
the reply that names it.
"""

import base64
import re
from collections.abc import Sequence

from msgspec import Struct

from smtpproxy.mail.reply import Reply

LOCAL_PART_LIMIT = 64  # octets, RFC 5321 4.5.3.1.1
DOMAIN_LIMIT = 255  # 4.5.3.1.2
PATH_LIMIT = 256  # 4.5.3.1.3, with the angle brackets
COMMAND_LIMIT = 2048  # 4.5.3.1.4 asks for 512 at least, extensions add to it
AUTH_LIMIT = 12_288  # octets of a response, RFC 4954 section 4.1


class CommandError(Exception):
    """A command that cannot be taken, with the reply that says why."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply.of(code, enhanced, text)


class Hello(Struct, frozen=True):
    """EHLO (`extended`) or HELO."""

    domain: str
    extended: bool


class Mail(Struct, frozen=True):
    """MAIL FROM. `reverse_path` has no brackets and is empty for `<>`."""

    reverse_path: str
    size: int | None = None
    body: str | None = None  # 7BIT or 8BITMIME
    smtputf8: bool = False


class Rcpt(Struct, frozen=True):
    """RCPT TO. `forward_path` has no brackets and no source route."""

    forward_path: str


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
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"'
_LABEL = r"[A-Za-z0-9_\x80-\U0010ffff](?:[A-Za-z0-9_\x80-\U0010ffff-]*[A-Za-z0-9_\x80-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Za-z.:-]+\]"
_ROUTE = rf"@(?:{_DOMAIN})(?:,@(?:{_DOMAIN}))*:"
_PATH = re.compile(
    rf" ?<(?:(?:{_ROUTE})?(?P<local>{_ATOM}(?:\.{_ATOM})*|{_QUOTED})(?:@(?P<domain>{_DOMAIN}))?)?>"
)
_PLAIN_PATH = re.compile(r"<([a-z0-9+_-]+(?:\.[a-z0-9+_-]+)*)@[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)+>")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_HELO_DOMAIN = re.compile(r"[A-Za-z0-9_.:\[\]\x80-\U0010ffff-]+")


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


def parse_hello(argument: str, *, extended: bool) -> Hello:
    """Parse what follows EHLO or HELO. Syntax is checked loosely, as RFC 5321 4.1.4 asks."""
    domain = argument.strip(" ")
    if not _HELO_DOMAIN.fullmatch(domain) or len(domain.encode()) > DOMAIN_LIMIT:
        verb = "EHLO" if extended else "HELO"
        raise CommandError(501, "5.5.4", f"{verb} needs a domain or an address literal")
    return Hello(domain, extended)


def parse_mail(argument: str, *, extended: bool, size_limit: int) -> Mail:
    """Parse `FROM:<path> [parameters]`; `argument` is what follows the verb and a space."""
    if argument[:5].upper() != "FROM:":
        raise CommandError(501, "5.5.4", "syntax: MAIL FROM:<address>")
    path, rest = _parse_path(argument, 5, enhanced="5.1.7", null_allowed=True)
    if not rest:
        _refuse_unicode(path, smtputf8=False)
        return Mail(path)
    size: int | None = None
    body: str | None = None
    smtputf8 = False
    seen: set[str] = set()
    for keyword, value in _parameters(rest, extended=extended):
        if keyword in seen:
            raise CommandError(501, "5.5.4", f"MAIL parameter {keyword} is given twice")
        seen.add(keyword)
        match keyword:
            case "SIZE" if value is not None and value.isascii() and value.isdigit():
                if len(value) > 20:
                    raise CommandError(501, "5.5.4", "SIZE has at most 20 digits")
                size = int(value)
            case "BODY" if value is not None and value.upper() in {"7BIT", "8BITMIME"}:
                body = value.upper()
            case "SMTPUTF8" if value is None:
                smtputf8 = True
            case "SIZE" | "BODY" | "SMTPUTF8":
                raise CommandError(501, "5.5.4", f"MAIL parameter {keyword} has a wrong value")
            case _:
                raise CommandError(555, "5.5.4", f"MAIL parameter {keyword} not recognised")
    if size is not None and size > size_limit:
        raise CommandError(552, "5.3.4", f"message size exceeds the limit of {size_limit} bytes")
    _refuse_unicode(path, smtputf8=smtputf8)
    return Mail(path, size, body, smtputf8)


def parse_rcpt(argument: str, *, extended: bool, smtputf8: bool) -> Rcpt:
    """Parse `TO:<path> [parameters]`; `argument` is what follows the verb and a space."""
    if argument[:3].upper() != "TO:":
        raise CommandError(501, "5.5.4", "syntax: RCPT TO:<address>")
    path, rest = _parse_path(argument, 3, enhanced="5.1.3", null_allowed=False)
    if rest:
        for keyword, _ in _parameters(rest, extended=extended):
            raise CommandError(555, "5.5.4", f"RCPT parameter {keyword} not recognised")
    _refuse_unicode(path, smtputf8=smtputf8)
    return Rcpt(path)


def parse_auth(argument: str, mechanisms: Sequence[str]) -> Auth:
    """Parse `MECHANISM [initial-response]` (RFC 4954 section 4)."""
    mechanism, _, initial = argument.strip(" ").partition(" ")
    mechanism = mechanism.upper()
    if not mechanism:
        raise CommandError(501, "5.5.4", "syntax: AUTH mechanism")
    if mechanism not in mechanisms:
        raise CommandError(504, "5.5.4", "mechanism not offered; EHLO lists them")
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


def _parse_path(line: str, start: int, *, enhanced: str, null_allowed: bool) -> tuple[str, str]:
    """Return (address without brackets and route, what follows)."""
    plain = _PLAIN_PATH.fullmatch(line, start)
    if plain is not None and len(plain[1]) <= LOCAL_PART_LIMIT and len(line) <= PATH_LIMIT:
        return line[start + 1 : -1], ""
    found = _PATH.match(line, start)
    if found is None or (found.end() < len(line) and line[found.end()] != " "):
        raise CommandError(501, enhanced, "bad address syntax; write <local-part@domain>")
    local, domain = found["local"], found["domain"]
    rest = line[found.end() :].strip(" ")
    if local is None:
        if not null_allowed:
            raise CommandError(501, enhanced, "a recipient cannot be the null path <>")
        return "", rest
    if domain is None:
        if null_allowed or local.lower() != "postmaster":
            raise CommandError(501, enhanced, "address has no domain; write <local-part@domain>")
        return local, rest
    _check_lengths(local, domain, enhanced)
    return f"{local}@{domain}", rest


def _check_lengths(local: str, domain: str, enhanced: str) -> None:
    octets = len(local.encode()), len(domain.encode())
    if octets[0] > LOCAL_PART_LIMIT:
        raise CommandError(553, enhanced, f"local part is longer than {LOCAL_PART_LIMIT} octets")
    if octets[1] > DOMAIN_LIMIT:
        raise CommandError(553, enhanced, f"domain is longer than {DOMAIN_LIMIT} octets")
    if sum(octets) + 3 > PATH_LIMIT:
        raise CommandError(553, enhanced, f"path is longer than {PATH_LIMIT} octets")


def _parameters(rest: str, *, extended: bool) -> list[tuple[str, str | None]]:
    if not extended:
        raise CommandError(555, "5.5.4", "parameters need EHLO first")
    pairs = []
    for word in rest.split(" "):
        if not word:
            continue
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise CommandError(501, "5.5.4", "bad parameter syntax; write KEYWORD or KEYWORD=value")
        pairs.append((found[1].upper(), found[2]))
    return pairs


def _refuse_unicode(path: str, *, smtputf8: bool) -> None:
    if not smtputf8 and not path.isascii():
        raise CommandError(553, "5.6.7", "non-ASCII address needs the SMTPUTF8 parameter of MAIL")
