"""Who may report about whom: a signature proves only who wrote a report.

A provider speaks for its own mailboxes, and a few services speak for many providers. A report
signed by just any domain proves nothing about people elsewhere, because anybody can have a domain.
"""

from collections.abc import Collection

from msgspec.structs import replace

from smtpproxy.feedback.records import Action, Class, Event, FeedbackReport
from smtpproxy.mail.dmarc import all_aligned, organisational_domain

_WITH_CUSTOMERS = frozenset(  # where anybody can have a mailbox
    {
        *("hotmail.com", "outlook.com", "yahoo.com", "aol.com", "googlemail.com", "icloud.com"),
        "comcast.net",
    }
)
_FOR_OTHERS = _WITH_CUSTOMERS | {
    *("senderscore.net", "returnpath.net", "validity.com", "signal-spam.fr", "abuseat.org"),
    *("amazonses.com", "microsoft.com", "yahooinc.com", "google.com", "apple.com"),
}
"""Organisations whose reports are about mailboxes at other domains."""

_RESERVED = frozenset({"mailer-daemon", "postmaster", "abuse", "staff"})
"""The local parts that no provider gives to a customer."""

_ROLES = _RESERVED | {
    *("feedback", "feedbackloop", "feedback-loop", "fbl", "arf", "complaint", "complaints"),
}
"""The local parts of providers' own senders."""


def vouched(report: FeedbackReport, writer: str | None, signers: Collection[str]) -> FeedbackReport:
    """Return the report so that it suppresses only those for whom its writer may speak.

    `writer` is the From address, `signers` the domains of valid DKIM signatures that cover From and
    all of the body.
    """
    return replace(report, events=tuple(_held(one, writer, signers) for one in report.events))


def _held(event: Event, writer: str | None, signers: Collection[str]) -> Event:
    if event.action is not Action.SUPPRESS or event.address is None:
        return event
    if _vouches(event.event_class, event.address, writer, signers):
        return event
    lacking = f"no valid signature of a domain that speaks for {event.address}: {event.why}"
    return replace(event, action=Action.COUNT, scope=None, why=lacking)


def _vouches(kind: Class, address: str, writer: str | None, signers: Collection[str]) -> bool:
    if writer is None:
        return False
    local, _, domain = writer.rpartition("@")
    if not all_aligned((domain,), signers):
        return False
    if kind is Class.UNSUBSCRIBE:
        return address == writer
    organisation = organisational_domain(domain)
    theirs = organisational_domain(address.rpartition("@")[2])
    names = _RESERVED if domain in _WITH_CUSTOMERS else _ROLES
    return local in names and organisation in _FOR_OTHERS | {theirs}
