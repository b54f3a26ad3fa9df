"""Addresses in machine-written text: fields of reports, and lines of text."""

import re

from smtpproxy.mail.address import AddressError, canonical

ADDRESS = re.compile(
    r"(?<![\w.@+-])([\w.!#$%&'*+/=?^`{"
    r"|}~-]{1,64}@(?:[\w-]{1,63}\.){1,9}[a-zA-Z][\w-]{0,62})(?![\w@])"
)
_TYPE = re.compile(r"\s*[\w-]{1,20}\s*;")
_ESCAPED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # RFC 6533 3
_SMTP_PREFIX = re.compile(r"smtp=", re.IGNORECASE)  # in Exchange's X.400 addresses
_OURS = frozenset(
    {"postmaster", "mailer-daemon", "mailerdaemon", "mdaemon", "abuse", "hostmaster", "noreply"}
)


def valid(text: str) -> str | None:
    """Return the canonical form of the address `text`; None if it is not one with a domain."""
    try:
        address = canonical(text.strip().strip("<>\"'[]() \t,;:"))
    except AddressError:
        return None
    return address if "." in address.rpartition("@")[2] else None


def of_field(value: str) -> str | None:
    """Return the address of a recipient field (RFC 3464 2.3.1): `rfc822; a@b`."""
    kind = _TYPE.match(value)
    bare = value[kind.end() :] if kind is not None else value
    bare = _ESCAPED.sub(_character, bare.partition("(")[0])
    exact = valid(bare)
    return exact or next(iter(found_in(bare)), None)


def found_in(text: str) -> list[str]:
    """Return the canonical addresses in a text, each once, in order."""
    if "@" not in text:
        return []
    found = (valid(_SMTP_PREFIX.sub("", match[1])) for match in ADDRESS.finditer(text))
    return list(dict.fromkeys(address for address in found if address is not None))


def is_of_a_machine(address: str) -> bool:
    """Whether an address sends reports or answers for them, and is not a person's."""
    return address.partition("@")[0] in _OURS


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0xD800 or 0xDFFF < number < 0x110000 else ""
