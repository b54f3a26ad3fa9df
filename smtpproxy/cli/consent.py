"""`smtpproxy consent`: acts of agreement and their withdrawal, one at a time."""

import ipaddress
from collections.abc import Iterator
from datetime import datetime, timedelta

import click

from smtpproxy.cli.common import config_option, fail, json_option, moment, print_json
from smtpproxy.cli.stores import (
    TIME_HELP,
    canonical_address,
    last_moment,
    now,
    plain_text,
    using_store,
    warn,
    warn_of_the_future,
    warn_of_unknown_purpose,
)
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    Lookups,
    RecipientFacts,
    Source,
    Verdict,
)
from smtpproxy.policy.rules.case import RecipientCase
from smtpproxy.policy.rules.suppression import suppressed
from smtpproxy.settings import Settings
from smtpproxy.store.protocols import ContactUpdate, Store

_SKEW = timedelta(minutes=5)  # between two clocks


def past_moment(value: str) -> datetime:
    """Read an option's time, which has come. For `type=past_moment`."""
    at = moment(value)
    if at > now() + _SKEW:
        raise click.BadParameter(f"{value!r} is in the future: nobody has agreed to anything then")
    return at


def ip_address(value: str) -> str:
    """Read an option's IP address. For `type=ip_address`."""
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        right = "192.0.2.7 or 2001:db8::7"
        raise click.BadParameter(f"{value!r} is no IP address such as {right}") from None


@click.group()
def command() -> None:
    """Record consent and its withdrawal. Acts are a history: none is ever replaced."""


@command.command("record")
@click.argument("address", type=canonical_address)
@click.option(
    "--purpose",
    type=plain_text,
    required=True,
    help="What the person agreed to, such as newsletter.",
)
@click.option(
    "--method",
    type=plain_text,
    required=True,
    help="How: unticked_box, double_opt_in, signed_form …",
)
@click.option(
    "--wording",
    type=plain_text,
    help="Which text the person agreed to. Without it nothing is proven.",
)
@click.option("--given-at", type=past_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@click.option("--ip", type=ip_address, help="Where the person agreed from.")
@click.option("--conditional", is_flag=True, help="It was a condition of the service.")
@click.option(
    "--channel",
    "channels",
    type=plain_text,
    multiple=True,
    default=["email"],
    show_default=True,
    help="By what the person may be reached; give any number.",
)
@click.option(
    "--source",
    type=click.Choice([str(source) for source in Source]),
    help="How the address was obtained, when that is not known yet.",
)
@config_option
@json_option
def record(
    settings: Settings,
    address: str,
    purpose: str,
    method: str,
    wording: str | None,
    given_at: datetime | None,
    ip: str | None,
    conditional: bool,
    channels: tuple[str, ...],
    source: str | None,
    as_json: bool,
) -> None:
    """Record that a person agreed to one purpose; makes the contact when there is none."""
    methods = _methods(settings)
    if method not in methods:
        fail(f"--method: {method!r} is none of {', '.join(sorted(methods))}", 2)
    act = ConsentAct(
        purpose,
        given_at or now(),
        method=method,
        conditional=conditional,
        channels=frozenset(channels),
        evidence=Evidence(wording, ip),
    )

    async def add(store: Store) -> tuple[bool, RecipientFacts]:
        before = await store.contact(address)
        recorded = await store.record_act(address, act)
        if source and (before is None or before.source is None):
            named = Contact(address, source=Source(source))
            await store.put_contacts([ContactUpdate(named, given=frozenset({"source"}))])
        return recorded, (await store.facts(Lookups((address,))))[address]

    warn_of_unknown_purpose(settings, purpose)
    recorded, known = using_store(settings, add)
    if known.contact is not None and known.contact.source is None:
        warn("how the address was obtained is not known, so it is not mailed: say --source")
    if wording is None:
        warn("without a --wording the consent proves nothing, so it allows nothing")
    for stream, verdict in _still_suppressed(settings, address, purpose, known):
        warn(
            f"{address} will still not be mailed on the stream {stream}: {verdict.reason} "
            f"({verdict.detail}); see smtpproxy suppress show {address}"
        )
    _print(address, act, recorded, as_json)


@command.command("withdraw")
@click.argument("address", type=canonical_address)
@click.option(
    "--purpose", type=plain_text, required=True, help="What the person does not agree to any more."
)
@click.option("--withdrawn-at", type=last_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@config_option
@json_option
def withdraw(
    settings: Settings, address: str, purpose: str, withdrawn_at: datetime | None, as_json: bool
) -> None:
    """Record that a person withdraws the agreement to one purpose.

    It holds against every other basis too, and also when no agreement was on record.
    """
    warn_of_the_future("--withdrawn-at", withdrawn_at, "it counts from now on all the same")
    act = ConsentAct(purpose, withdrawn_at or now(), withdrawal=True)
    warn_of_unknown_purpose(settings, purpose)
    recorded = using_store(settings, lambda store: store.record_act(address, act))
    _print(address, act, recorded, as_json)


def _methods(settings: Settings) -> set[str]:
    """Return every method that a rulebook in use knows, valid or not."""
    rulebooks = settings.rulebooks.values()
    return {name for book in rulebooks for name in book.valid_methods | book.preticked_methods}


def _still_suppressed(
    settings: Settings, address: str, purpose: str, known: RecipientFacts
) -> Iterator[tuple[str, Verdict]]:
    """Yield the streams of the purpose on which a suppression outweighs the consent."""
    for stream in settings.streams.values():
        if stream.purpose == purpose:
            rulebook = settings.rulebooks[stream.rulebook]
            verdict = suppressed(RecipientCase(address, stream, known, rulebook, now()))
            if verdict is not None:
                yield stream.name, verdict


def _print(address: str, act: ConsentAct, recorded: bool, as_json: bool) -> None:
    if as_json:
        print_json({"address": address, "recorded": recorded, "act": act})
        return
    kind = "withdrawal of" if act.withdrawal else "consent to"
    done = "recorded" if recorded else "was on record already"
    click.echo(f"{address}: {kind} {act.purpose} {done}")
