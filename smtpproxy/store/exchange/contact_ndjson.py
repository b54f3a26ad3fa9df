"""Contacts from NDJSON, and what a line refuses that is rejected for something else."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from smtpproxy.policy.model import Frequency
from smtpproxy.store.exchange.consent_columns import may_be_a_date
from smtpproxy.store.exchange.contact_record import Time, convert_contact, read_contact
from smtpproxy.store.exchange.legible import EVERY_PURPOSE, words_in
from smtpproxy.store.exchange.lines import (
    ILLEGIBLE,
    Contents,
    Line,
    Lines,
    converted,
    legible_json,
    names_in,
)
from smtpproxy.store.protocols import ContactUpdate

_MOST = 1_000  # consents, tags or wishes of a line, among which refusals are looked for


def read_ndjson(lines: Lines, as_of: datetime) -> Contents[ContactUpdate]:
    """Read one JSON object a line."""

    def convert(line: Line) -> ContactUpdate:
        return read_contact(line.content, as_of)

    items = converted(lines, convert, lambda line: refusal_in(line, as_of))
    return Contents(items, decoder=lines.decoder)


def refusal_in(line: Line, as_of: datetime) -> ContactUpdate | None:
    """Return what a line refuses, whatever else is wrong with it; None: nothing, or nobody's."""
    content = legible_json(line.content)
    try:
        told = msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not isinstance(told, dict) or _comes_twice("address", content):
        return None
    said: dict[str, Any] = {"address": told.get("address")} | _text(told, "brand")
    if not isinstance(said["address"], str) or ILLEGIBLE in said["address"]:
        return None
    if line.is_guessed and not said["address"].isascii():
        return None
    if (at := _refused_at(told.get("profiling_objected_at"), as_of)) is not None:
        said["profiling_objected_at"] = at
    tags = told.get("tags")
    refused = {
        "consents": list(_withdrawals(told.get("consents"), said["address"], as_of)),
        "tags": words_in(tags[:_MOST] if isinstance(tags, list) else None),
        "preferences": list(_wishes(told.get("preferences"), said["address"], as_of)),
    }
    said |= {name: found for name, found in refused.items() if found}
    if said.keys() <= {"address", "brand"}:
        return None
    try:
        return convert_contact(said, as_of)
    except ValueError:
        return None


def _comes_twice(name: str, content: bytes) -> bool:
    return any(names.count(name) > 1 for names in names_in(content)[-1:])


def _withdrawals(consents: object, address: str, as_of: datetime) -> Iterator[dict[str, Any]]:
    for one in consents[:_MOST] if isinstance(consents, list) else ():
        if not isinstance(one, dict):
            continue
        at = _refused_at(one.get("withdrawn_at"), as_of)
        if at is None:
            continue
        withdrawal = {"withdrawn_at": at, **_text(one, "brand")}
        withdrawal["purpose"] = next(iter(words_in([one.get("purpose")])), EVERY_PURPOSE)
        if _can_be_read({"address": address, "consents": [withdrawal]}, as_of):
            yield withdrawal


def _wishes(preferences: object, address: str, as_of: datetime) -> Iterator[dict[str, Any]]:
    """Yield the wishes for less mail; one for all of it is none."""
    for one in preferences[:_MOST] if isinstance(preferences, list) else ():
        if not isinstance(one, dict) or one.get("frequency") == Frequency.ALL:
            continue
        at = _refused_at(one.get("at"), as_of)
        wish = {name: one[name] for name in ("purpose", "frequency", "brand") if name in one}
        if at is not None and _can_be_read(
            {"address": address, "preferences": [wish | {"at": at}]}, as_of
        ):
            yield wish | {"at": at}


def _can_be_read(fields: dict[str, Any], as_of: datetime) -> bool:
    try:
        convert_contact(fields, as_of)
    except ValueError:
        return False
    return True


def _text(told: dict[str, Any], name: str) -> dict[str, str]:
    """Return a member that is text: a brand that is none is every brand's."""
    value = told.get(name)
    return {name: value} if isinstance(value, str) and value else {}


def _refused_at(value: object, as_of: datetime) -> datetime | None:
    """Return when somebody refused; what was meant as a time, and is none, is that of the file."""
    try:
        return msgspec.convert(value, Time)
    except msgspec.ValidationError:
        if value is True or (not isinstance(value, bool | None) and may_be_a_date(str(value))):
            return as_of
        return None
