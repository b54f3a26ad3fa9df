"""`--set FIELD=VALUE`: what holds for every row of a table that does not say otherwise."""

from collections.abc import Iterable, Sequence

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import plain_text
from smtpproxy.cli.stores import check_brand, check_purpose
from smtpproxy.clock import now
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.contact_csv import check_constants
from smtpproxy.store.exchange.mapping import FIELDS


def constant(value: str) -> tuple[str, str]:
    """Read FIELD=VALUE; `evidence.wording` is `consent_wording`. For `type=constant`."""
    name, is_said, text = value.partition("=")
    name, text = name.strip(), plain_text(text) if text.strip() else ""
    if not is_said or not text:
        raise click.BadParameter(f"{value!r} is not FIELD=VALUE, such as source=direct")
    for prefix in ("evidence.", "consent.", "consents."):
        name = f"consent_{name.removeprefix(prefix)}" if name.startswith(prefix) else name
    return name, text


def constants_of(given: Iterable[tuple[str, str]], fields: Sequence[str]) -> dict[str, str]:
    """Return what `--set` says, by field; end the command where there is no such field."""
    found: dict[str, str] = {}
    for name, text in given:
        if name not in fields or name == "address":
            fail(f"--set {name}: no such field; they are {', '.join(fields[1:])}", 2)
        if name in found:
            fail(f"--set {name}: it is given twice", 2)
        found[name] = text
    return found


def contact_constants(settings: Settings, given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what `--set` says of contacts; end the command where no contact can be so."""
    constants = constants_of(given, FIELDS)
    try:
        check_constants(constants, now())
    except ValueError as error:
        fail(f"--set {error}".replace(" (under [constants] of the mapping)", ""), 2)
    if (purpose := constants.get("consent_purpose")) is not None:
        check_purpose(settings, purpose)
    if (brand := constants.get("brand")) is not None:
        check_brand(settings, brand)
    method = constants.get("consent_method")
    if method is not None and method not in settings.methods:
        known = ", ".join(sorted(settings.methods))
        fail(f"--set consent_method: {method!r} is not one of {known}", 2)
    return constants
