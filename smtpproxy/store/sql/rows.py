"""Converting rows of the database from and to records."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Link,
    Origin,
    Preference,
    Provenance,
    Purchase,
    Source,
    Suppression,
)
from smtpproxy.policy.rulebook import WIDENED_ORIGINS

Row = tuple[Any, ...]
T = TypeVar("T")

CONTACT_COLUMNS = (
    "id, address, audience, source, collected_at, informed_at, optout_offered,"
    " last_activity_at, occupations, tags, supplier, sender_disclosed, purchases,"
    " more"
)
PAUSES = "SELECT subject, at, cause, until, reason FROM stream_pause ORDER BY subject"
ACT_COLUMNS = "at, withdrawal, purpose, method, conditional, channels, wording, ip, details"

WIDENED = ", ".join(f"'{origin}'" for origin in sorted(WIDENED_ORIGINS))
"""The origins that count for every spelling of a mailbox, as an SQL list."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOTHING: frozenset[str] = frozenset()
_EMAIL = frozenset({"email"})
_NO_EVIDENCE = Evidence()
# A dict takes a tenth of the time of calling the enum.
_AUDIENCES = {str(audience): audience for audience in Audience}
_DISCLOSED = (False, True, None)
_SOURCES = {None: None} | {str(source): source for source in Source}
_ORIGINS = {str(origin): origin for origin in Origin}


class _Purchase(msgspec.Struct, array_like=True):
    product: str
    at: int
    kind: Dealing = Dealing.SALE
    brand: str | None = None
    came_by: str | None = None


class _ContactDetails(msgspec.Struct, omit_defaults=True):
    chain: tuple[Link, ...] = ()
    first_contacted_at: datetime | None = None
    profiling_objected_at: datetime | None = None
    never_informed: bool = False
    language: str | None = None
    preferences: tuple[Preference, ...] = ()
    brand: str | None = None
    others: tuple[Collection, ...] = ()


class _ActDetails(msgspec.Struct, omit_defaults=True):
    version: str | None = None
    form: str | None = None
    document_hash: str | None = None
    pending: bool = False
    brand: str | None = None
    came_by: str | None = None
    recorded_by: str | None = None


_NO_CONTACT_DETAILS = _ContactDetails()
_NO_ACT_DETAILS = _ActDetails()
_read_set = msgspec.json.Decoder(frozenset[str]).decode
_read_purchases = msgspec.json.Decoder(list[_Purchase]).decode
_read_contact_details = msgspec.json.Decoder(_ContactDetails).decode
_read_act_details = msgspec.json.Decoder(_ActDetails).decode
_write = msgspec.json.Encoder(order="deterministic").encode


def to_micros(moment: datetime) -> int:
    """Return microseconds since 1970 in UTC; exact, unlike a float of seconds."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return _EPOCH + _MICROSECOND * micros


def optional_micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def optional_moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def row_of(values: Iterable[object]) -> Row:
    """Return values as they are stored: times in microseconds."""
    return tuple([to_micros(one) if isinstance(one, datetime) else one for one in values])


def record_of(kind: Callable[..., T], row: Sequence[Any]) -> T:
    """Return the record whose first fields have these values: the counterpart of `row_of`."""
    readers = _readers(kind)[: len(row)]
    values = zip(readers, row, strict=True)
    return kind(*[one if one is None or read is None else read(one) for read, one in values])


@cache
def _readers(kind: object) -> tuple[Callable[[Any], object] | None, ...]:
    """Return what converts the values of each field for a record; None where that is not needed."""
    found = []
    for hint in get_type_hints(kind).values():
        types = [one for one in (hint, *get_args(hint)) if isinstance(one, type)]
        read = next((one for one in types if one is bool or issubclass(one, Enum)), None)
        found.append(from_micros if datetime in types else read)
    return tuple(found)


def suppression(
    scope: str,
    origin: str,
    since: int,
    note: str | None,
    *,
    widened: bool,
    domain: str | None = None,
) -> Suppression:
    return Suppression(scope, _ORIGINS[origin], from_micros(since), widened, note, domain)


def contact(row: Row, acts: tuple[ConsentAct, ...]) -> Contact:
    """Read CONTACT_COLUMNS. Times are converted inline: calls would double the cost."""
    (
        _id,
        address,
        audience,
        source,
        collected_at,
        informed_at,
        optout_offered,
        last_activity_at,
        occupations,
        tags,
        supplier,
        sender_disclosed,
        purchases,
        details,
    ) = row
    more = _read_contact_details(details) if details else _NO_CONTACT_DETAILS
    collected = None if collected_at is None else _EPOCH + _MICROSECOND * collected_at
    return Contact(
        address,
        _AUDIENCES[audience],
        _SOURCES[source],
        collected,
        collected if informed_at == collected_at else optional_moment(informed_at),
        None if optout_offered is None else bool(optout_offered),
        None if last_activity_at is None else _EPOCH + _MICROSECOND * last_activity_at,
        _read_set(occupations) if occupations else _NOTHING,
        _read_set(tags) if tags else _NOTHING,
        None
        if sender_disclosed is None
        else Provenance(supplier, _DISCLOSED[sender_disclosed], more.chain),
        tuple(
            [
                Purchase(p.product, _EPOCH + _MICROSECOND * p.at, p.kind, p.brand, p.came_by)
                for p in _read_purchases(purchases)
            ]
        )
        if purchases
        else (),
        acts,
        more.first_contacted_at,
        more.profiling_objected_at,
        more.never_informed,
        more.language,
        more.preferences,
        more.brand,
        more.others,
    )


def act(row: Row) -> ConsentAct:
    """Read the columns of ACT_COLUMNS."""
    at, withdrawal, purpose, method, conditional, channels, wording, ip, details = row
    more = _read_act_details(details) if details else _NO_ACT_DETAILS
    return ConsentAct(
        purpose,
        _EPOCH + _MICROSECOND * at,
        bool(withdrawal),
        method,
        None if conditional is None else bool(conditional),
        _read_set(channels) if channels else _EMAIL,
        _NO_EVIDENCE
        if wording is None and ip is None and details is None
        else Evidence(wording, ip, more.version, more.form, more.document_hash, more.recorded_by),
        more.pending,
        more.brand,
        more.came_by,
    )


def contact_row(number: int, contact: Contact, as_of: datetime | None) -> Row:
    """Return the values of CONTACT_COLUMNS and `as_of`."""
    provenance = contact.provenance
    return (
        number,
        contact.address,
        contact.audience,
        contact.source,
        optional_micros(contact.collected_at),
        optional_micros(contact.informed_at),
        contact.optout_offered,
        optional_micros(contact.last_activity_at),
        _json_set(contact.occupations),
        _json_set(contact.tags),
        provenance.supplier if provenance else None,
        _DISCLOSED.index(provenance.sender_disclosed) if provenance else None,
        _write(list(map(_purchase, contact.purchases))).decode() if contact.purchases else None,
        _contact_details(contact),
        optional_micros(as_of),
    )


def act_brand(details: str | None) -> str | None:
    """Return the brand in the details of an act."""
    return _read_act_details(details).brand if details else None


def act_row(number: int, sequence: int, act: ConsentAct) -> Row:
    """Return contact, sequence and the values of ACT_COLUMNS."""
    return (
        number,
        sequence,
        to_micros(act.at),
        act.withdrawal,
        act.purpose,
        act.method,
        act.conditional,
        None if act.channels == _EMAIL else _json_set(act.channels) or "[]",
        act.evidence.wording,
        act.evidence.ip,
        _act_details(act),
    )


def _purchase(one: Purchase) -> tuple[object, ...]:
    """Return the values without default ones at the end."""
    values = [one.product, to_micros(one.at), one.kind, one.brand, one.came_by]
    while values[-1] is None:
        values.pop()
    if len(values) == 3 and one.kind is Dealing.SALE:
        values.pop()
    return tuple(values)


def _contact_details(contact: Contact) -> str | None:
    chain = contact.provenance.chain if contact.provenance else ()
    details = _ContactDetails(
        chain,
        contact.first_contacted_at,
        contact.profiling_objected_at,
        contact.never_informed,
        contact.language,
        contact.preferences,
        contact.brand,
        contact.others,
    )
    return None if details == _NO_CONTACT_DETAILS else _write(details).decode()


def preferences(details: str) -> tuple[Preference, ...]:
    """Return the wishes in the column `more`."""
    return _read_contact_details(details).preferences


def with_preferences(details: str, preferences: tuple[Preference, ...]) -> str:
    """Return the column `more` with these wishes."""
    known = _read_contact_details(details)
    known.preferences = preferences
    return _write(known).decode()


def _act_details(act: ConsentAct) -> str | None:
    evidence = act.evidence
    details = _ActDetails(
        evidence.version,
        evidence.form,
        evidence.document_hash,
        act.pending,
        act.brand,
        act.came_by,
        evidence.recorded_by,
    )
    return None if details == _NO_ACT_DETAILS else _write(details).decode()


def _json_set(values: frozenset[str]) -> str | None:
    return _write(sorted(values)).decode() if values else None
