"""What a check found."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from msgspec import Struct

from smtpproxy.resolver import Answer, Kind

Lookup = Callable[[str, Kind], Awaitable[Answer]]
"""Asks the DNS. Raises DnsFailure when there is no answer."""


class Status(StrEnum):
    PASS = "pass"
    WARN = "warn"  # works now, and deserves a second look
    FAIL = "fail"
    UNKNOWN = "unknown"  # nothing that could be asked from here tells


class Check(StrEnum):
    """What `--only` takes. docs/doctor.md has a section for each."""

    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    ALIGNMENT = "alignment"
    MX = "mx"
    PTR = "ptr"
    UPSTREAM = "upstream"
    CLOCK = "clock"
    KEYS = "keys"
    CERTIFICATE = "certificate"
    UNSUBSCRIBE = "unsubscribe"
    PROVIDERS = "providers"


class Finding(Struct, frozen=True):
    """`subject` is the domain, address, listener or file that it is about.

    `fix` says what would make it right, empty where nothing has to be done.
    """

    check: Check
    subject: str
    status: Status
    text: str
    fix: str = ""


_WORST = (Status.FAIL, Status.UNKNOWN, Status.WARN, Status.PASS)


def worst(statuses: list[Status]) -> Status:
    """Return what all of them come to; nothing at all is unknown."""
    return next((each for each in _WORST if each in statuses), Status.UNKNOWN)
