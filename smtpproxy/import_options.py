"""What the options of an import may say: the same for the commands and for the API."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from smtpproxy.recorded_consent import check_brand, check_method, check_purpose
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.contact_csv import check_constants
from smtpproxy.store.exchange.layouts import PROVIDERS, Kind, layouts
from smtpproxy.store.exchange.mapping import FIELDS, SUPPRESSION_FIELDS
from smtpproxy.store.exchange.plausible import SKEW
from smtpproxy.store.exchange.run import Format
from smtpproxy.terminal import plain_text

OWN_FORMATS: dict[str, Format] = {"csv": "csv", "ndjson": "ndjson"}


def read_format(value: str, kinds: Sequence[Kind] = ("suppressions", "contacts")) -> str:
    """Raises ValueError if it is neither our own format nor one of a provider's exports."""
    found = [layout for kind in kinds for layout in layouts(kind)]
    providers = {layout.provider for layout in found}
    names = sorted({layout.name for layout in found})
    known = (*OWN_FORMATS, *(name for name in PROVIDERS if name in providers), *names)
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def check_as_of(as_of: datetime, now: datetime) -> None:
    """Raises ValueError for a file that describes a time to come."""
    if as_of > now + SKEW:
        raise ValueError(
            f"{as_of:%Y-%m-%d %H:%M} UTC is in the future, and until then no newer profile"
            " would count"
        )


def read_constant(value: str) -> tuple[str, str]:
    """Read FIELD=VALUE; `evidence.wording` is `consent_wording`."""
    name, equals, text = value.partition("=")
    name, text = name.strip(), plain_text(text) if text.strip() else ""
    if not equals or not text:
        raise ValueError(f"{value!r} is not FIELD=VALUE, such as source=direct")
    for prefix in ("evidence.", "consent.", "consents."):
        name = f"consent_{name.removeprefix(prefix)}" if name.startswith(prefix) else name
    return name, text


def constants_of(
    settings: Settings, kind: Kind, given: Iterable[tuple[str, str]], now: datetime
) -> dict[str, str]:
    """Return the values that are set, by field. Raises ValueError, which names the field."""
    fields = FIELDS if kind == "contacts" else SUPPRESSION_FIELDS
    found: dict[str, str] = {}
    for name, text in given:
        if name not in fields or name == "address":
            raise ValueError(f"{name}: no such field; they are {', '.join(fields[1:])}")
        if name in found:
            raise ValueError(f"{name}: given twice")
        found[name] = text
    if kind == "contacts":
        _check_contact(settings, found, now)
    return found


def _check_contact(settings: Settings, constants: dict[str, str], now: datetime) -> None:
    try:
        check_constants(constants, now)
    except ValueError as error:
        text = str(error).replace(" (under [constants] of the mapping)", "")
        raise ValueError(text) from error
    checks: dict[str, Callable[[Settings, str], None]] = {
        "consent_purpose": check_purpose,
        "brand": check_brand,
        "consent_method": partial(check_method, double=False),
    }
    for field in checks.keys() & constants:
        try:
            checks[field](settings, constants[field])
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from error
