"""How an uploaded file is imported: checked before it is received, not when its turn comes."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from smtpproxy import recorded_consent, toml
from smtpproxy.access import Access
from smtpproxy.import_options import (
    OWN_FORMATS,
    check_as_of,
    constants_of,
    read_constant,
    read_format,
)
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.mapping import FIELDS, SUPPRESSION_FIELDS, MappingFault, mapping_of
from smtpproxy.store.exchange.suppression_record import read_scope
from smtpproxy.store.exchange.times import read_time, written_time
from smtpproxy.store.import_jobs import ImportJob
from smtpproxy.store.operations import UNDO_FOR, ImportRecord
from smtpproxy.terminal import plain_text
from smtpproxy.web.api.imports import ImportQuery
from smtpproxy.web.api.operation import refusing
from smtpproxy.web.api.problems import Refused

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_FOR_ONE = {"contacts": ("as_of",), "suppressions": ("scope", "origin")}


def options_of(access: Access, asked: ImportQuery, now: datetime) -> list[str]:
    """Return the options of the command. Raises Refused, OthersConcerned."""
    for name in ("file_format", "brand", "purpose", "as_of", "scope", "replace"):
        _check_text(name, getattr(asked, name))
    for each in asked.set:
        _check_text("set", each)
    other = _FOR_ONE["suppressions" if asked.kind == "contacts" else "contacts"]
    for name in other:
        if getattr(asked, name) is not None:
            raise Refused("parameter_wrong", f"{name} does not apply to {asked.kind}")
    brand = asked.brand
    if not access.everything:
        if brand is not None or (asked.kind == "contacts" and len(access.brands) == 1):
            brand = access.brand(brand)
    elif brand is not None:
        with refusing("parameter_wrong", "brand"):
            recorded_consent.check_brand(access.settings, brand)
    _check_reading(access.settings, asked, now)
    named = {
        "--format": asked.file_format, "--brand": brand, "--purpose": asked.purpose,
        "--as-of": _as_of(asked, now), "--scope": asked.scope, "--origin": asked.origin,
        "--replace": asked.replace,
    }  # fmt: skip
    found = [f"{name}={value}" for name, value in named.items() if value is not None]
    return [*found, *(f"--set={each}" for each in asked.set)]


def _check_text(name: str, text: str | None) -> None:
    if text is not None and _CONTROL.search(text):
        raise Refused("parameter_wrong", f"{name} must not have control characters")


def _check_reading(settings: Settings, asked: ImportQuery, now: datetime) -> None:
    """Raises Refused if the file cannot be read in the way that is asked for."""
    if asked.file_format is not None:
        with refusing("parameter_wrong", "format"):
            read_format(asked.file_format, (asked.kind,))
    if asked.purpose is not None:
        with refusing("parameter_wrong", "purpose"):
            plain_text(asked.purpose)
    if asked.scope is not None:
        with refusing("parameter_wrong"):
            read_scope(asked.scope)
    with refusing("parameter_wrong", "set"):
        constants_of(settings, asked.kind, map(read_constant, asked.set), now)
    if asked.mapping is None:
        return
    if asked.file_format not in (None, *OWN_FORMATS):
        text = f"mapping and format={asked.file_format} both set the columns: give one"
        raise Refused("parameter_wrong", text)
    fields = FIELDS if asked.kind == "contacts" else SUPPRESSION_FIELDS
    try:
        mapping_of("mapping", toml.loads(asked.mapping), fields)
    except (MappingFault, toml.TomlError) as error:
        raise Refused("parameter_wrong", f"mapping: {error}") from error


def _as_of(asked: ImportQuery, now: datetime) -> str | None:
    if asked.as_of is None:
        return None
    with refusing("parameter_wrong", "as_of"):
        read = read_time(asked.as_of, zone=UTC)  # as the command reads it
        check_as_of(read, now)
        return written_time(read)


def check_replaced(
    asked: ImportQuery, seen: Sequence[ImportJob | ImportRecord], now: datetime
) -> None:
    """Raises Refused if the import that this one corrects is not there, or cannot be undone.

    `seen` are those of the token, each once it has begun as the record.
    """
    id = asked.replace
    if id is None or id == "none":
        return
    found = {one.id: one for one in seen if one.id.startswith(id.upper())}
    if len(found) != 1:
        raise Refused("parameter_wrong", "replace: no import with that id is on record")
    (former,) = found.values()
    wrong = ""
    if former.kind != asked.kind:
        wrong = f"is an import of {former.kind}"
    elif isinstance(former, ImportJob):
        wrong = "is a dry run" if former.dry_run else ""  # else it is done before this one
    elif former.state == "undone":
        wrong = "is already undone"
    elif former.kind == "contacts" and former.started_at < now - UNDO_FOR:
        wrong = f"is older than {UNDO_FOR.days} days: earlier profiles are not kept longer"
    if wrong:
        raise Refused("parameter_wrong", f"replace: {former.id} {wrong}")
