"""Suppressions and their changes as CSV rows and NDJSON objects (design.md section 7)."""

import re
from datetime import datetime
from functools import cache

import msgspec

from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered_name, whole_domain_written
from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.exchange.layouts import layouts
from smtpproxy.store.exchange.lines import ILLEGIBLE, legible_json, names_in, read_object
from smtpproxy.store.exchange.rows import check_no_error, is_error, row_writer
from smtpproxy.store.exchange.tables import guarded
from smtpproxy.store.exchange.times import Notation, read_time, written_time
from smtpproxy.store.keys import is_key_text
from smtpproxy.store.propagation import SuppressionChange
from smtpproxy.store.records import SuppressionEntry

COLUMNS = ("address", "scope", "origin", "since", "note")
_SCOPE = re.compile(
    r"all|marketing|brand:[a-z0-9][a-z0-9_-]{0,62}"
    r"|purpose:[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]{0,198}[^\x00-\x20\x7f])?"
)
_SCOPES = "all, marketing, brand:NAME and purpose:NAME"
_ORIGINS = {str(origin): origin for origin in Origin}
DOMAIN_ORIGINS = (Origin.MANUAL, Origin.OBJECTION, Origin.EXTERNAL)
"""Origins for a whole domain: an order of the operator, of the domain's owner, or of a list.

All others are about one mailbox.
"""


MAILCHIMP_REASONS = ("NORMAL", "NOSIGNUP", "INAPPROPRIATE", "SPAM", "OTHER")
"""The values of UNSUB_REASON; people's own words are in UNSUB_REASON_OTHER."""

BOUNCE_CLASSES = (
    *("hard", "soft", "bounce", "complaint", "blocked", "HardBounce", "SoftBounce"),  # Postmark …
    *("SpamComplaint", "SpamNotification", "ManualSuppression"),
    *("Permanent", "Transient", "Undetermined", "General", "NoEmail", "Suppressed"),  # SES
    *("OnAccountSuppressionList", "MailboxFull", "MessageTooLarge"),
    *("ContentRejected", "AttachmentRejected"),
    *("Invalid Address", "Technical", "Content", "Reputation", "Frequency/Volume"),  # SendGrid
    *("Mailbox Unavailable", "Unclassified"),
)
OWN_MOTIVES = (
    *("by phone", "by letter", "by e-mail", "in person", "by form", "by unsubscribe link"),
    *("consent was withdrawn", "objected to profiling", "the contact was restricted"),
    *("one-click", "reported as spam", "no such mailbox", "mailbox full", "role address"),
    *("duplicate", "test address", "request of the authority", "request of the domain's owner"),
    "the person has died",
)
LIFT_MOTIVES = (
    *("the person asked", "added by mistake", "mailbox works again", "order of the controller"),
    *("order of counsel", "lifted before the restore", "erased", "not kept"),
)
"""Why a suppression was lifted; the last two replace free text that was erased or not kept."""

_CODES = re.compile(r"[245]\d\d|[245]\.\d{1,3}\.\d{1,3}|[245]\d\d [245]\.\d{1,3}\.\d{1,3}")
_OF_US = re.compile(
    r"(?:link of|taken back on the page of) id=[0-9A-HJKMNP-TV-Z]{26}"
    r"|by the person, on the page whose link was mailed on [0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"|import [0-9A-Z]{1,26} undone by [A-Za-z0-9._$-]{1,32}"
)


@cache
def motives() -> frozenset[str]:
    """Return the notes that are allowed without --keep-notes, casefolded: a closed list."""
    own = (*MAILCHIMP_REASONS, *BOUNCE_CLASSES, *OWN_MOTIVES, *LIFT_MOTIVES)
    exports = (
        constants.get("note")
        for layout in layouts("suppressions")
        for constants in (layout.mapping.constants, *(when.constants for when in layout.when))
    )
    return frozenset(text.casefold() for text in (*own, *exports) if text)


def is_motive(note: str) -> bool:
    """Whether a note is in the closed list, or an SMTP or enhanced code (RFC 5321, 3463).

    Anything else is free text, which may contain personal data (CNIL, MED-2023-040).
    """
    return (
        note.casefold() in motives()
        or _CODES.fullmatch(note) is not None
        or _OF_US.fullmatch(note) is not None
    )


def read_scope(text: str) -> str:
    """Raises `ValueError` if it is not a scope."""
    if not text:
        raise ValueError(f"scope: missing; fill it in, or use --scope: {_SCOPES}")
    if _SCOPE.fullmatch(text) is None:
        raise ValueError(f"scope: {text[:40]!r} is not one of {_SCOPES}")
    return text


def read_origin(text: str) -> Origin:
    """Raises `ValueError` if it is not an origin."""
    if not text:
        raise ValueError(f"origin: missing; fill it in, or use --origin: {', '.join(_ORIGINS)}")
    if text not in _ORIGINS:
        raise ValueError(f"origin: {text[:40]!r} is not one of {', '.join(_ORIGINS)}")
    return _ORIGINS[text]


def is_whole_domain(address: str) -> bool:
    """Whether it names a whole domain, validly or not, or is a domain's key text."""
    return whole_domain_written(address) or (is_key_text(address) and address[0] in "@*")


def check_origin(address: str, origin: Origin) -> None:
    """Raises `ValueError` if a whole domain has an origin that is about one mailbox."""
    if origin not in DOMAIN_ORIGINS and is_whole_domain(address):
        raise ValueError(
            f"origin: {origin} is about one mailbox, not a whole domain; expected one of "
            f"{', '.join(DOMAIN_ORIGINS)}"
        )


class Defaults(msgspec.Struct, frozen=True):
    """Values for lines that do not have them."""

    since: datetime  # the time of the file
    scope: str = ""
    origin: str = ""
    purpose: str = ""  # of the unsubscribes from a list
    brand: str = ""  # the file's; it narrows `marketing`

    def entry(
        self,
        address: str,
        scope: str,
        origin: str,
        since: str,
        note: str,
        notation: Notation | None = None,
    ) -> SuppressionEntry:
        """Check one suppression. Raises ValueError: the field, what is wrong, what is right."""
        if not is_key_text(address):
            try:
                address = entered_name(address)
            except AddressError as error:
                raise ValueError(f"address: {error}") from None
        try:
            at = self.since
            if since:
                check_no_error(since)
                read_since = notation.read if notation else read_time
                at = read_since(since, last_moment=True)
        except ValueError as error:
            raise ValueError(f"since: {error}") from None
        scope = read_scope(scope or self.scope)
        read = read_origin(origin or self.origin)
        check_origin(address, read)
        if note and notation and is_error(note):
            note = ""
        return SuppressionEntry(address, scope, read, at, note or None)


class SuppressionRecord(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    scope: str | None = None
    origin: str | None = None
    since: str | None = None
    note: str | None = None


_decode = msgspec.json.Decoder(SuppressionRecord).decode


def read_record(content: bytes, defaults: Defaults) -> SuppressionEntry:
    """Read one JSON object with the fields of COLUMNS. Raises ValueError as `Defaults.entry`."""
    try:
        record = read_object(_decode, content)
    except msgspec.MsgspecError as error:
        raise ValueError(_explained(error)) from None
    return defaults.entry(
        record.address,
        record.scope or "",
        record.origin or "",
        record.since or "",
        record.note or "",
    )


def refusal_in(content: bytes, defaults: Defaults) -> SuppressionEntry | None:
    """Return the entry of a rejected object, with the time of the file, if only its time, its note
    or an unknown field is at fault."""
    try:
        record = msgspec.json.decode(legible_json(content), type=dict[str, object])
        names = [name for names in names_in(legible_json(content))[-1:] for name in names]
        if any(names.count(name) > 1 for name in ("address", "scope", "origin")):
            return None
        address, scope, origin = (record.get(name) or "" for name in ("address", "scope", "origin"))
        texts = isinstance(address, str) and isinstance(scope, str) and isinstance(origin, str)
        if not texts or ILLEGIBLE in str(address):
            return None
        return defaults.entry(str(address), str(scope), str(origin), "", "")
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def _explained(error: Exception) -> str:
    """Return an error message that names the field."""
    text, _, path = str(error).partition(" - at `$")
    name = path.rstrip("`").lstrip(".")
    if "unknown field" in text:
        return f"{text}; the fields are {', '.join(COLUMNS)}"
    if name:
        return f"{name}: must be text"
    if "missing required field" in text:
        return "the field `address` is missing"
    return 'not a JSON object on one line, like {"address": "a@b.example", "scope": "all"}'


_csv_row = row_writer()


def csv_line(address: str, suppression: Suppression) -> str:
    """Return the CSV line of a suppression, without its end."""
    since, note = written_time(suppression.since), suppression.note or ""
    return _csv_row([address, suppression.scope, suppression.origin, since, guarded(note)])


def ndjson_line(address: str, suppression: Suppression) -> str:
    """Return the NDJSON line of a suppression, without its end."""
    return msgspec.json.encode(
        SuppressionRecord(
            address,
            suppression.scope,
            suppression.origin,
            written_time(suppression.since),
            suppression.note,
        )
    ).decode()


def change_object(change: SuppressionChange) -> dict[str, object]:
    """Return a change as a JSON object, which has no address and no note."""
    return {
        "seq": change.seq,
        "at": written_time(change.at),
        "action": change.action,
        "key": change.key,
        "scope": change.scope,
        "origin": str(change.origin),
        "since": written_time(change.since),
    }
