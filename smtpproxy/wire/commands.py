"""Parses SMTP command lines to frozen records (RFC 5321 section 4.1).

A line is given without its CRLF. Any error raises `CommandError` with the reply that says what is
wrong. Parameters of the DSN extension are checked and kept as they came (RFC 3461 section 4).
"""

import base64
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from smtpproxy.mail.address import DOMAIN_LIMIT, SIMPLE_PATH, PathError, read_path
from smtpproxy.mail.reply import Reply

COMMAND_LIMIT = 2048  # RFC 5321 4.5.3.1.4 requires at least 512, and extensions add to it
AUTH_LIMIT = 12_288  # octets of a response, RFC 4954 section 4.1


class CommandError(Exception):
    """A command that cannot be accepted, with the reply that says why."""

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
    ret: str | None = None  # DSN, as it came
    envid: str | None = None
    prdr: bool = False  # each recipient gets its own reply after the content


class Rcpt(Struct, frozen=True):
    """RCPT TO. `forward_path` has no brackets."""

    forward_path: str
    notify: str | None = None  # DSN, as it came
    orcpt: str | None = None


class Data(Struct, frozen=True):
    """DATA after at least one accepted recipient."""


class Reset(Struct, frozen=True):
    """RSET."""


class Quit(Struct, frozen=True):
    """QUIT."""


class StartTls(Struct, frozen=True):
    """STARTTLS where it is allowed, with nothing after it."""


class Auth(Struct, frozen=True):
    """AUTH with an offered mechanism. `initial` is the decoded initial response, or None."""

    mechanism: str
    initial: bytes | None = None


class AuthResponse(Struct, frozen=True):
    """The client's answer to a challenge, decoded; None if it cancels with `*`."""

    data: bytes | None


class ClientInfo(Struct, frozen=True):
    """What a trusted host says of a client; None: not mentioned; empty: not known."""

    address: str | None = None  # IPv4 or IPv6, without a prefix
    name: str | None = None
    port: str | None = None
    protocol: str | None = None  # SMTP or ESMTP
    helo: str | None = None
    login: str | None = None
    ident: str | None = None  # the message's id at the host
    source: str | None = None  # LOCAL or REMOTE


class XClient(Struct, frozen=True):
    """XCLIENT; if it is answered with 220, the session starts again."""

    client: ClientInfo


class XForward(Struct, frozen=True):
    """XFORWARD, for the next transaction; a second one adds to the first."""

    client: ClientInfo


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of invalid octets
_HELO_DOMAIN = re.compile(r"[^\x00-,/;-@\\^`{-\x7f]+")  # of ASCII: letters, digits, `-._:[]`


def check_characters(verb: str, text: str) -> None:
    """Refuse characters that no command may contain. `text` is decoded with surrogateescape."""
    if _CONTROL.search(text):
        raise CommandError(501, "5.5.2", "a command cannot contain control characters")
    if _NOT_UTF8.search(text):
        raise CommandError(501, "5.5.2", "a command must be ASCII or UTF-8")
    if not verb.isascii():
        raise unknown()


def unknown() -> CommandError:
    return CommandError(500, "5.5.1", "command not recognised; HELP lists them")


def no_argument(verb: str, argument: str) -> None:
    if argument and argument.strip(" "):
        raise CommandError(501, "5.5.4", f"{verb} takes no argument")


def parse_hello(verb: str, argument: str) -> Hello:
    """Parse what follows EHLO, HELO or LHLO, leniently, as RFC 5321 4.1.4 asks."""
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
    except ValueError:  # binascii.Error, or not ASCII
        raise CommandError(501, "5.5.2", "cannot decode the base64 of the response") from None


_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})+")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_ENVID_LIMIT = 100  # characters, section 4.4
_ORCPT_LIMIT = 500  # section 4.2


def _ret(value: str | None) -> str:
    """Check how much of the message a notification is to return: FULL or HDRS."""
    if value is None or value.upper() not in ("FULL", "HDRS"):
        raise CommandError(501, "5.5.4", "RET must be FULL or HDRS")
    return value


def _envid(value: str | None) -> str:
    """Check the sender's identifier of the transaction, in xtext."""
    if value is None or len(value) > _ENVID_LIMIT or not _XTEXT.fullmatch(value):
        raise CommandError(501, "5.5.4", f"ENVID must be xtext, at most {_ENVID_LIMIT} characters")
    return value


def _notify(value: str | None) -> str:
    """Check when the sender wants to be notified: NEVER, or a list."""
    wanted = (value or "").upper().split(",")
    if wanted != ["NEVER"] and not (_NOTIFY.issuperset(wanted) and len(set(wanted)) == len(wanted)):
        text = "NOTIFY must be NEVER, or a list of SUCCESS, FAILURE and DELAY"
        raise CommandError(501, "5.5.4", text)
    assert value is not None
    return value


def _orcpt(value: str | None) -> str:
    """Check the original recipient: an address type, and xtext."""
    kind, _, text = (value or "").partition(";")
    if (
        value is None
        or len(value) > _ORCPT_LIMIT
        or not _ADDRESS_TYPE.fullmatch(kind)
        or not _XTEXT.fullmatch(text)
    ):
        raise CommandError(501, "5.5.4", "ORCPT must be a type of address, a semicolon and xtext")
    return value


_UNICODE_ORCPT = re.compile(r"(?<!\S)ORCPT=utf-8;\S+", re.IGNORECASE | re.ASCII)


def _in_ascii(text: str) -> str:
    """Return an address of type utf-8 in the form that any server takes (RFC 6533 section 3)."""
    return "".join(each if each.isascii() else f"\\x{{{ord(each):X}}}" for each in text)


_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]{0,63})(?:=([\x21-\x3c\x3e-\x7e]+))?")


SIMPLE_MAIL = re.compile(rf"[Ff][Rr][Oo][Mm]:{SIMPLE_PATH}")
SIMPLE_RCPT = re.compile(rf"[Tt][Oo]:{SIMPLE_PATH}")
"""Matches most commands. The only group is the path, as `parse_mail` and `parse_rcpt` read it."""


def parse_mail(argument: str, *, extended: bool, size_limit: int, offered: Container[str]) -> Mail:
    """Parse `FROM:<path> [parameters]`; `argument` is what follows the verb and a space.

    `offered` are the keywords of EHLO: parameters of other extensions are refused.
    """
    if argument[:5].upper() != "FROM:":
        raise CommandError(501, "5.5.4", "syntax: MAIL FROM:<address>")
    path, rest = _parse_path(argument, 5, enhanced="5.1.7", null_allowed=True)
    if not rest:
        _refuse_unicode(path, smtputf8=False)
        return Mail(path)
    given = _parameters("MAIL", rest, extended=extended)
    mail = Mail(path, **_read("MAIL", given, _MAIL_PARAMETERS, offered))
    if mail.size is not None and mail.size > size_limit:
        raise CommandError(552, "5.3.4", f"message size exceeds the limit of {size_limit} bytes")
    _refuse_unicode(path, smtputf8=mail.smtputf8)
    return mail


def parse_rcpt(
    argument: str, *, extended: bool, smtputf8: bool, offered: Container[str] = ()
) -> Rcpt:
    """Parse `TO:<path> [parameters]`; `argument` is what follows the verb and a space."""
    if argument[:3].upper() != "TO:":
        raise CommandError(501, "5.5.4", "syntax: RCPT TO:<address>")
    path, rest = _parse_path(argument, 3, enhanced="5.1.3", null_allowed=False)
    _refuse_unicode(path, smtputf8=smtputf8)
    if not rest:
        return Rcpt(path)
    if smtputf8 and not rest.isascii():
        rest = _UNICODE_ORCPT.sub(lambda found: _in_ascii(found[0]), rest)
    given = _parameters("RCPT", rest, extended=extended)
    return Rcpt(path, **_read("RCPT", given, _RCPT_PARAMETERS, offered))


def _size(value: str | None) -> int:
    if value is None or not (value.isascii() and value.isdigit()):
        raise CommandError(501, "5.5.4", "MAIL parameter SIZE has a wrong value")
    if len(value) > 20:
        raise CommandError(501, "5.5.4", "SIZE has at most 20 digits")
    return int(value)


def _body(value: str | None) -> str:
    if value is None or value.upper() not in ("7BIT", "8BITMIME"):
        raise CommandError(501, "5.5.4", "MAIL parameter BODY has a wrong value")
    return value.upper()


def _flag(keyword: str) -> Callable[[str | None], bool]:
    def read(value: str | None) -> bool:
        if value is not None:
            raise CommandError(501, "5.5.4", f"MAIL parameter {keyword} has a wrong value")
        return True

    return read


class _Parameter(Struct, frozen=True):
    """A parameter: its extension, its field in the record, and how it is read.

    One without a field is accepted and ignored.
    """

    extension: str
    field: str | None
    read: Callable[[str | None], object]


_MAIL_PARAMETERS = {
    "SIZE": _Parameter("SIZE", "size", _size),
    "BODY": _Parameter("8BITMIME", "body", _body),
    "SMTPUTF8": _Parameter("SMTPUTF8", "smtputf8", _flag("SMTPUTF8")),
    "RET": _Parameter("DSN", "ret", _ret),
    "ENVID": _Parameter("DSN", "envid", _envid),
    "PRDR": _Parameter("PRDR", "prdr", _flag("PRDR")),
    "AUTH": _Parameter("AUTH", None, str),  # RFC 4954 section 5: accepted, but not trusted
}
_RCPT_PARAMETERS = {
    "NOTIFY": _Parameter("DSN", "notify", _notify),
    "ORCPT": _Parameter("DSN", "orcpt", _orcpt),
}


def _read(
    verb: str,
    given: Iterable[tuple[str, str | None]],
    parameters: Mapping[str, _Parameter],
    offered: Container[str],
) -> dict[str, Any]:
    """Return the fields of the record."""
    fields: dict[str, Any] = {}
    for keyword, value in given:
        parameter = parameters.get(keyword)
        if keyword == "REQUIRETLS":  # RFC 8689
            text = "REQUIRETLS cannot be promised here: the route of the message is not known"
            raise CommandError(550, "5.7.30", text)
        if parameter is None or parameter.extension not in offered:
            raise CommandError(555, "5.5.4", f"{verb} parameter {keyword} not recognised")
        found = parameter.read(value)
        if parameter.field is not None:
            fields[parameter.field] = found
    return fields


def _parse_path(line: str, start: int, *, enhanced: str, null_allowed: bool) -> tuple[str, str]:
    """Return (address without brackets, what follows)."""
    try:
        mailbox, end = read_path(line, start)
    except PathError as error:
        raise CommandError(error.code, enhanced, str(error)) from None
    if not mailbox and not null_allowed:
        raise CommandError(501, enhanced, "a recipient cannot be the null path <>")
    if mailbox and "@" not in mailbox and (null_allowed or mailbox.lower() != "postmaster"):
        raise CommandError(501, enhanced, "address has no domain; write <local-part@domain>")
    return mailbox, line[end:].strip(" ")


def _parameters(verb: str, rest: str, *, extended: bool) -> Iterable[tuple[str, str | None]]:
    if not extended:
        raise CommandError(555, "5.5.4", "parameters need EHLO first")
    pairs: dict[str, str | None] = {}
    for word in rest.split(" "):
        if not word:
            continue
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise CommandError(501, "5.5.4", "bad parameter syntax; write KEYWORD or KEYWORD=value")
        keyword = found[1].upper()
        if keyword in pairs:
            raise CommandError(501, "5.5.4", f"{verb} parameter {keyword} is given twice")
        pairs[keyword] = found[2]
    return pairs.items()


def _refuse_unicode(path: str, *, smtputf8: bool) -> None:
    if not smtputf8 and not path.isascii():
        raise CommandError(553, "5.6.7", "non-ASCII address needs the SMTPUTF8 parameter of MAIL")
