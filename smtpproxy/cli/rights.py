"""`smtpproxy contact rectify` and `object`: what a person may have put right, and refuse."""

from datetime import datetime

import click

from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import (
    TIME_HELP,
    canonical_address,
    fact_moment,
    last_moment,
    note_options,
    now,
    plain_text,
    scope_of,
    using_store,
    warn_of_the_future,
)
from smtpproxy.policy.model import Audience, Contact, Origin, Source
from smtpproxy.settings import Settings
from smtpproxy.store.operations import Change, Correction
from smtpproxy.store.protocols import ContactUpdate, Store, SuppressionEntry
from smtpproxy.terminal import printable


@click.command("rectify")
@click.argument("address", type=canonical_address)
@click.option("--new-address", type=canonical_address, help="The address was wrong or has changed.")
@click.option(
    "--audience", type=click.Choice([str(one) for one in Audience]), help="As whom to judge them."
)
@click.option(
    "--source",
    type=click.Choice([str(one) for one in Source]),
    help="How the address was obtained.",
)
@click.option(
    "--collected-at", type=fact_moment, metavar="TIME", help=f"When that was. {TIME_HELP}."
)
@click.option(
    "--informed-at",
    type=fact_moment,
    metavar="TIME",
    help=f"When the person was told. {TIME_HELP}.",
)
@click.option(
    "--optout-offered",
    type=click.Choice(["yes", "no"]),
    help="Whether they could refuse at collection.",
)
@click.option("--add-occupation", type=plain_text, multiple=True, help="What they do; any number.")
@click.option(
    "--remove-occupation", type=plain_text, multiple=True, help="What they do not do; any number."
)
@click.option("--add-tag", type=plain_text, multiple=True, help="A tag, such as restricted.")
@click.option("--remove-tag", type=plain_text, multiple=True, help="A tag that is wrong.")
@click.option(
    "--reason", type=plain_text, required=True, help="Why: who asked for it, and how it is known."
)
@config_option
@json_option
def rectify(
    settings: Settings,
    address: str,
    new_address: str | None,
    audience: str | None,
    source: str | None,
    collected_at: datetime | None,
    informed_at: datetime | None,
    optout_offered: str | None,
    add_occupation: tuple[str, ...],
    remove_occupation: tuple[str, ...],
    add_tag: tuple[str, ...],
    remove_tag: tuple[str, ...],
    reason: str,
    as_json: bool,
) -> None:
    """Put right what is stored of a person (RGPD 16). What it was stays on record.

    With --new-address the contact moves with its whole history, and what keeps mail from the
    old address keeps it from the new one too, but for bounces; the old one stays suppressed.
    """
    correction = Correction(
        new_address,
        Audience(audience) if audience else None,
        Source(source) if source else None,
        collected_at,
        informed_at,
        None if optout_offered is None else optout_offered == "yes",
        frozenset(add_occupation),
        frozenset(remove_occupation),
        frozenset(add_tag),
        frozenset(remove_tag),
        settings.restricted_tags,
    )
    if correction == Correction(restricted_tags=settings.restricted_tags):
        raise click.UsageError("say what is to be put right, such as --new-address or --audience")
    done = using_store(
        settings, lambda store: store.rectify(address, correction, at=now(), reason=reason)
    )
    if done is None:
        fail(f"there is no contact {address}")
    if as_json:
        print_json({"address": new_address or address, "rectification": done})
        return
    for change in done.changes:
        click.echo(f"{address}: {printable(in_words(change), typeset=True)}")
    if not done.changes:
        click.echo(f"{address}: it is so already; nothing is changed")


def in_words(change: Change) -> str:
    return f"{change.field}: {change.before or 'nothing'} → {change.after or 'nothing'}"


@click.command("object")
@click.argument("address", type=canonical_address)
@click.option(
    "--purpose", type=plain_text, help="To mail of this purpose alone; else to all marketing."
)
@click.option("--profiling", is_flag=True, help="To profiling too: what was gathered is frozen.")
@click.option("--only-profiling", is_flag=True, help="To profiling, and not to the mail.")
@click.option("--since", type=last_moment, metavar="TIME", help=f"{TIME_HELP}; else now.")
@note_options
@config_option
@json_option
def object_(
    settings: Settings,
    address: str,
    purpose: str | None,
    profiling: bool,
    only_profiling: bool,
    since: datetime | None,
    note: str | None,
    as_json: bool,
) -> None:
    """Record that a person objects to marketing (RGPD 21(2)), and to profiling for it.

    It leaves a suppression of origin `objection`, which no consent outweighs. After an
    objection to profiling no import changes or adds occupations, tags or last_activity_at,
    and none clears the mark.
    """
    if only_profiling and (purpose or note):
        raise click.UsageError("--purpose and --note are about mail: leave --only-profiling out")
    warn_of_the_future("--since", since, "it counts from now on all the same")
    at = since or now()
    scope = None if only_profiling else scope_of(settings, purpose) if purpose else "marketing"
    freezes = profiling or only_profiling

    async def record(store: Store) -> None:
        if scope:
            entry = SuppressionEntry(address, scope, Origin.OBJECTION, at, note)
            await store.add_suppressions([entry])
        if freezes:
            mark = Contact(address, profiling_objected_at=at)
            await store.put_contacts([ContactUpdate(mark, given=frozenset())])

    using_store(settings, record)
    if as_json:
        print_json({"address": address, "scope": scope, "profiling": freezes, "since": at})
        return
    if scope:
        click.echo(f"{address}: objection to {scope} is on record, and no consent outweighs it")
    if freezes:
        click.echo(f"{address}: objection to profiling is on record; what was gathered is frozen")
