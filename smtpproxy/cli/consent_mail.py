"""`smtpproxy consent start` and `link`: ask people by mail to confirm consent or to renew it."""

import ipaddress
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

from smtpproxy.cli import fail, failing
from smtpproxy.cli.options import (
    CanonicalAddress,
    FileOrStdin,
    Options,
    PageLanguage,
    Text,
    Value,
    argument,
    command,
    option,
)
from smtpproxy.cli.printer import Csv, Result
from smtpproxy.cli.stores import AddressFile, check_purpose, using_store, warn
from smtpproxy.clock import now
from smtpproxy.mail.address import names_domain
from smtpproxy.policy.model import Evidence, Source
from smtpproxy.settings import Settings
from smtpproxy.store import open_confirmation_limit
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import few

if TYPE_CHECKING:
    from smtpproxy.web.consent_by_mail import ConsentRequest


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        right = "192.0.2.7 or 2001:db8::7"
        raise ValueError(f"{value!r} is not an IP address such as {right}") from None


IpAddress = Annotated[str, Value("IP", _ip_address)]


class StartOptions(Options, frozen=True):
    """What the person asked for, and what they were shown."""

    purpose: Text = option("What the person asked for, such as newsletter.", required=True)
    brand: Text | None = option("The brand; required if there are several.")
    wording: Text = option("The text that the person agreed to.", required=True)
    version: Text | None = option("The version of the wording.")
    form: Text | None = option("Where consent was given: a page, a till, a stand.")
    ip: IpAddress | None = option("The person's IP address; only a keyed hash of it is kept.")
    language: PageLanguage | None = option(
        "The language of the mail (default: the contact's, or the brand's first)."
    )
    source: Source | None = option(
        "How the address was obtained; recorded once consent is confirmed."
    )


@command("start")
def start(settings: Settings, address: CanonicalAddress, options: StartOptions) -> Result:
    """Ask somebody by mail to confirm (double opt-in).

    The request is recorded, and a mail with a link is sent to the address. Consent is recorded
    when the person presses the button on the page behind the link. Exits with 1 when this person
    may not be mailed, or has had as many of these mails as allowed today.
    """
    from smtpproxy.web.consent_by_mail import ConsentByMail
    from smtpproxy.web.own_mail import RelayUnavailable, submitter

    asked = _request(settings, address, options)
    if settings.confirmation is None:
        fail("confirmation: not configured; add [confirmation] with a sender", 2)

    async def ask(store: Store) -> Result:
        by_mail = ConsentByMail(settings, lambda: store, submitter(settings), limit, now)
        try:
            done = await by_mail.start(asked)
        except RelayUnavailable as error:
            fail(f"{error} The request is on record: run the command again later.")
        contact = await store.contact(address)
        known = asked.source or (contact is not None and contact.source)
        if done.state == "sent" and not known:
            warn("it is not known how the address was obtained, so it is not mailed: give --source")
        texts = {
            "sent": f"{address}: asked to confirm {asked.purpose}",
            "refused": f"{address}: may not be asked: {done.reason or ''} {done.detail or ''}",
            "too_often": f"{address}: not asked: the limit of confirmations in 24 hours is"
            " reached, for it or for all",
        }
        text = " ".join(texts[done.state].split())
        return Result({"address": address, "done": done}, [text], code=int(done.state != "sent"))

    with closing(open_confirmation_limit(settings.store)) as limit:
        return using_store(settings, ask)


def _request(settings: Settings, address: str, options: StartOptions) -> "ConsentRequest":
    """Return the request; end the command if no stream sends mail for its purpose."""
    from smtpproxy.web.consent_by_mail import ConsentRequest, brand_of

    check_purpose(settings, options.purpose)
    if options.purpose not in settings.mail_purposes:
        fail(
            f"--purpose: {options.purpose} is not mail, and the page asks only whether people want"
            " mail; ask where people see what it is, and record the answer with `consent record`",
            2,
        )
    with failing(ValueError, "--brand: ", code=2):
        brand = brand_of(settings, options.brand)
    if options.purpose not in (purposes := settings.purposes_of(brand)):
        known = few(sorted(purposes), options.purpose)
        wrong = f"no stream of brand {brand} has the purpose {options.purpose!r}"
        fail(f"--purpose: {wrong}; known: {known}", 2)
    return ConsentRequest(
        address,
        options.purpose,
        brand,
        Evidence(options.wording, options.ip, options.version, options.form),
        options.language,
        options.source,
    )


@command("link")
def link(
    settings: Settings,
    file: FileOrStdin = argument(default="-"),
    stream: Text = option("The stream; its class must be permission.", required=True),
    language: PageLanguage | None = option(
        "The language of the page (default: the brand's first, or the relay's)."
    ),
) -> Result:
    """Make the links that messages on a stream of class permission have to carry.

    FILE holds addresses, one per line, or in a column address or email of a CSV; standard input
    if left out. Prints a CSV: address,link. The relay decides whether a person may be asked when
    the message comes; `smtpproxy scrub --stream` shows it before. Exits with 1 when a line holds
    no address.
    """
    from smtpproxy.web.own_mail import Writer

    with failing(ValueError, code=2):
        writer = Writer(settings)
        writer.permission_links(stream, [], language, now())
    listed = AddressFile(file)
    rows: list[tuple[str, str]] = []
    for batch in listed.batches():
        people = [name for name in batch if not names_domain(name)]
        listed.unreadable += len(batch) - len(people)
        made = writer.permission_links(stream, people, language, now())
        rows += zip(people, made, strict=True)
    if listed.unreadable:
        warn(f"{listed.unreadable} lines without an address were left out")
    data = [{"address": address, "link": made} for address, made in rows]
    return Result(data, [Csv(("address", "link"), rows)], code=int(listed.unreadable > 0))
