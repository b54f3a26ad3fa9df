"""MAIL and RCPT with their parameters (RFC 5321 4.1.1.2, 4.1.1.3 and extensions)."""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from msgspec import Struct

from smtpproxy.mail.address import PathError, read_path
from smtpproxy.wire import notifications
from smtpproxy.wire.commands import CommandError, Mail, Rcpt

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")


def parse_mail(argument: str, *, extended: bool, size_limit: int, offered: Container[str]) -> Mail:
    """Parse `FROM:<path> [parameters]`; `argument` is what follows the verb and a space.

    `offered` are the keywords of EHLO: a parameter of no offered extension is refused.
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
    """A parameter: the extension that it is of, the field of the record, how it is read.

    Without a field it is taken and means nothing here.
    """

    extension: str
    field: str | None
    read: Callable[[str | None], object]


_MAIL_PARAMETERS = {
    "SIZE": _Parameter("SIZE", "size", _size),
    "BODY": _Parameter("8BITMIME", "body", _body),
    "SMTPUTF8": _Parameter("SMTPUTF8", "smtputf8", _flag("SMTPUTF8")),
    "RET": _Parameter("DSN", "ret", notifications.ret),
    "ENVID": _Parameter("DSN", "envid", notifications.envid),
    "PRDR": _Parameter("PRDR", "prdr", _flag("PRDR")),
    "AUTH": _Parameter("AUTH", None, str),  # RFC 4954 section 5: taken, and not trusted
}
_RCPT_PARAMETERS = {
    "NOTIFY": _Parameter("DSN", "notify", notifications.notify),
    "ORCPT": _Parameter("DSN", "orcpt", notifications.orcpt),
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
            text = "REQUIRETLS cannot be promised here: the way of the message is not known"
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
