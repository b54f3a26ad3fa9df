"""The parameters of the DSN extension, checked and kept as they came (RFC 3461 section 4)."""

import re

from smtpproxy.wire.commands import CommandError

_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})+")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_ENVID_LIMIT = 100  # characters, section 4.4
_ORCPT_LIMIT = 500  # section 4.2


def ret(value: str | None) -> str:
    """Check what of the message a notification is to hold: FULL or HDRS."""
    if value is None or value.upper() not in ("FULL", "HDRS"):
        raise CommandError(501, "5.5.4", "RET must be FULL or HDRS")
    return value


def envid(value: str | None) -> str:
    """Check the sender's name for the transaction, in xtext."""
    if value is None or len(value) > _ENVID_LIMIT or not _XTEXT.fullmatch(value):
        raise CommandError(501, "5.5.4", f"ENVID must be xtext, at most {_ENVID_LIMIT} characters")
    return value


def notify(value: str | None) -> str:
    """Check of what the sender wants to be told: NEVER, or a list."""
    wanted = (value or "").upper().split(",")
    if wanted != ["NEVER"] and not (_NOTIFY.issuperset(wanted) and len(set(wanted)) == len(wanted)):
        text = "NOTIFY must be NEVER, or a list of SUCCESS, FAILURE and DELAY"
        raise CommandError(501, "5.5.4", text)
    assert value is not None
    return value


def orcpt(value: str | None) -> str:
    """Check the recipient as the sender wrote it: a type of address, and xtext."""
    kind, _, text = (value or "").partition(";")
    if (
        value is None
        or len(value) > _ORCPT_LIMIT
        or not _ADDRESS_TYPE.fullmatch(kind)
        or not _XTEXT.fullmatch(text)
    ):
        raise CommandError(501, "5.5.4", "ORCPT must be a type of address, a semicolon and xtext")
    return value
