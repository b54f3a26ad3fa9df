"""`smtpproxy consent start` and `link`: ask people by mail to confirm, or whether to go on."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import (
    canonical_address,
    choice,
    config_option,
    file_type,
    ip_address,
    option,
    options,
    plain_text,
)
from smtpproxy.cli.printer import Csv, Result, shows_result
from smtpproxy.cli.stores import AddressFile, check_purpose, using_store, warn
from smtpproxy.clock import now
from smtpproxy.locale import PAGE_LANGS
from smtpproxy.mail.address import names_domain
from smtpproxy.policy.model import Evidence, Source
from smtpproxy.settings import Settings
from smtpproxy.store import open_confirmation_limit
from smtpproxy.store.protocols import Store

if TYPE_CHECKING:
    from smtpproxy.web.consent_by_mail import ConsentRequest


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What the person asked for, and what they were shown."""

    purpose: str = option(
        "What the person asked for, such as newsletter.", plain_text, required=True
    )
    brand: str | None = option("Of which brand, where there are several.", plain_text)
    wording: str = option("Which text the person agreed to.", plain_text, required=True)
    version: str | None = option("Which version of the wording.", plain_text)
    form: str | None = option("Where it was given: a page, a till, a stand.", plain_text)
    ip: str | None = option("Where from; a keyed hash of it is kept.", ip_address)
    language: str | None = option(
        "Of the mail (default: the contact's, or the brand's first).", choice(PAGE_LANGS)
    )
    source: str | None = option(
        "How the address was obtained; on record once it is confirmed.", choice(Source)
    )


@click.command("start")
@click.argument("address", type=canonical_address)
@options(StartOptions)
@config_option
@shows_result
def start(settings: Settings, address: str, options: StartOptions) -> Result:
    """Ask somebody by mail to confirm (double opt-in).

    The request goes on record, and a mail with a link to the address. The person's yes is
    recorded when the button of the page behind it is pressed. Exit 1 when this person may not be
    mailed, or has been mailed as often as is allowed today.
    """
    from smtpproxy.web.consent_by_mail import ConsentByMail
    from smtpproxy.web.own_mail import RelayUnavailable, submitter

    asked = _request(settings, address, options)
    if settings.confirmation is None:
        fail("confirmation: not configured: add a [confirmation] with a sender", 2)

    async def ask(store: Store) -> Result:
        by_mail = ConsentByMail(settings, lambda: store, submitter(settings), limit, now)
        try:
            done = await by_mail.start(asked)
        except RelayUnavailable as error:
            fail(f"{error} The request is on record: run the command again then.")
        contact = await store.contact(address)
        known = asked.source or (contact is not None and contact.source)
        if done.state == "sent" and not known:
            warn("it is not known how the address was obtained, so it is not mailed: give --source")
        texts = {
            "sent": f"{address}: asked to confirm {asked.purpose}",
            "refused": f"{address}: may not be asked: {done.reason or ''} {done.detail or ''}",
            "too_often": f"{address}: not asked: so many confirmations went to it, or to all,"
            " in 24 hours",
        }
        text = " ".join(texts[done.state].split())
        return Result({"address": address, "done": done}, [text], code=int(done.state != "sent"))

    with closing(open_confirmation_limit(settings.store)) as limit:
        return using_store(settings, ask)


def _request(settings: Settings, address: str, options: StartOptions) -> "ConsentRequest":
    """Return what is to be asked; end the command where no stream mails for it."""
    from smtpproxy.web.consent_by_mail import ConsentRequest, brand_of

    check_purpose(settings, options.purpose)
    if options.purpose not in settings.mail_purposes:
        fail(
            f"--purpose: the page asks whether people want mail, and {options.purpose} is not mail;"
            " ask where they see what it is, and put the answer on record with `consent record`",
            2,
        )
    try:
        brand = brand_of(settings, options.brand)
    except ValueError as error:
        fail(f"--brand: {error}", 2)
    if options.purpose not in (purposes := settings.purposes_of(brand)):
        known = ", ".join(sorted(purposes))
        wrong = f"no stream of brand {brand} has the purpose {options.purpose!r}"
        fail(f"--purpose: {wrong}; known are {known}", 2)
    return ConsentRequest(
        address,
        options.purpose,
        brand,
        Evidence(options.wording, options.ip, options.version, options.form),
        options.language,
        Source(options.source) if options.source else None,
    )


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """For which messages the links are."""

    stream: str = option("The stream, of class permission.", plain_text, required=True)
    language: str | None = option(
        "Of the page (default: the brand's first, or the relay's).", choice(PAGE_LANGS)
    )


@click.command("link")
@click.argument("file", type=file_type(stdin=True), default="-")
@options(LinkOptions)
@config_option
@shows_result
def link(settings: Settings, file: Path, options: LinkOptions) -> Result:
    """Make the links that messages of a stream of class permission have to carry.

    FILE holds addresses, one a line, or in a column address or email of a CSV; standard input
    when left out. Prints a CSV: address,link. Whether a person may be asked the relay decides when
    the message comes, and `smtpproxy scrub --stream` before. Exit 1 when a line holds no address.
    """
    from smtpproxy.web.own_mail import Writer

    try:
        writer = Writer(settings)
        writer.permission_links(options.stream, [], options.language, now())
    except ValueError as error:
        fail(str(error), 2)
    listed = AddressFile(file)
    rows: list[tuple[str, str]] = []
    for batch in listed.batches():
        people = [name for name in batch if not names_domain(name)]
        listed.unreadable += len(batch) - len(people)
        made = writer.permission_links(options.stream, people, options.language, now())
        rows += zip(people, made, strict=True)
    if listed.unreadable:
        warn(f"{listed.unreadable} lines without an address were left out")
    data = [{"address": address, "link": made} for address, made in rows]
    return Result(data, [Csv(("address", "link"), rows)], code=int(listed.unreadable > 0))
