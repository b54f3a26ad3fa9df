"""`smtpproxy contact rectify`, `object` and `erase`: people's rights over their data."""

from collections.abc import Iterator
from typing import Annotated, Literal

import click

from smtpproxy import erasure
from smtpproxy.cli import fail
from smtpproxy.cli.options import (
    TIME_HELP,
    YES,
    CanonicalAddress,
    LastMoment,
    Options,
    RecordedAddress,
    Text,
    Value,
    ask_first,
    command,
    flag,
    option,
    several,
)
from smtpproxy.cli.outlook import with_effect
from smtpproxy.cli.printer import Part, Result
from smtpproxy.cli.stores import (
    FactMoment,
    NoteOptions,
    known_scope,
    no_contact,
    read_store,
    using_store,
    warn,
    warn_of_the_future,
)
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.locale import language_tag
from smtpproxy.policy.model import Audience, Contact, Origin, Source
from smtpproxy.settings import Settings
from smtpproxy.store.operations import Change, Correction
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted


def _language(value: str) -> str:
    try:
        return language_tag(value.strip())
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None


class RectifyOptions(Options, frozen=True):
    """What is corrected."""

    new_address: CanonicalAddress | None = option(
        "The right address, if it was wrong or has changed."
    )
    audience: Audience | None = option("What kind of recipient they are, whatever any import says.")
    source: Source | None = option("How the address was obtained.")
    collected_at: FactMoment | None = option(f"When the address was obtained. {TIME_HELP}.")
    informed_at: FactMoment | None = option(
        f"When the person was told that the address would be used for mail. {TIME_HELP}."
    )
    optout_offered: bool | None = option("Whether they could opt out at collection.")
    language: Annotated[str, Value("LANGUAGE", _language)] | None = option(
        'The language they read: a language tag, such as "fr".'
    )
    add_occupation: tuple[Text, ...] = several("An occupation they have.")
    remove_occupation: tuple[Text, ...] = several("An occupation they do not have.")
    add_tag: tuple[Text, ...] = several("A tag, such as restricted.")
    remove_tag: tuple[Text, ...] = several("A tag that is wrong.")
    reason: Text = option("Why: who asked for it, and how it is known.", required=True)
    yes: bool = YES

    def correction(self, restricted_tags: frozenset[str]) -> Correction:
        """Return the correction that these options describe."""
        return Correction(
            **picked(self, "new_address", "audience", "source", "language"),
            **picked(self, "collected_at", "informed_at", "optout_offered"),
            add_occupations=frozenset(self.add_occupation),
            remove_occupations=frozenset(self.remove_occupation),
            add_tags=frozenset(self.add_tag),
            remove_tags=frozenset(self.remove_tag),
            restricted_tags=restricted_tags,
        )


@command("rectify")
def rectify(settings: Settings, address: RecordedAddress, options: RectifyOptions) -> Result:
    """Correct what is stored about a person (RGPD 16). The former values stay on record.

    With --new-address the contact moves with its whole history. Whatever suppresses the old
    address suppresses the new one too, except bounces; the old one stays suppressed.
    """
    correction = options.correction(settings.restricted_tags)
    if correction == Correction(restricted_tags=settings.restricted_tags):
        raise click.UsageError(
            "nothing to correct: give an option such as --new-address or --audience"
        )
    if (new := options.new_address) is not None and new != address:
        ask_first(lambda: _merging(settings, address, new), yes=options.yes)
    done = using_store(
        settings,
        lambda store: store.rectify(address, correction, at=now(), reason=options.reason),
    )
    if done is None:
        fail(read_store(settings, lambda store: no_contact(store, address)))

    def text() -> Iterator[Part]:
        for change in done.changes:
            yield f"{address}: {in_words(change)}"
        if not done.changes:
            yield f"{address}: nothing changed: the record already says so"

    name = options.new_address or address
    return with_effect(settings, name, Result({"address": name, "rectification": done}, text()))


def _merging(settings: Settings, address: str, new: str) -> str | None:
    """Return what is asked before two contacts become one; None: there are not two."""
    if _known(settings, address) is None or (other := _known(settings, new)) is None:
        return None
    return f"{new} is {other}: a merged history cannot be separated again. Merge the two?"


def _known(settings: Settings, address: str) -> str | None:
    """Say what a contact holds; None: there is none."""
    contact = read_store(settings, lambda store: store.contact(address))
    if contact is None:
        return None
    acts = counted(len(contact.acts), "act of consent", "acts of consent")
    return f"a contact with {counted(len(contact.purchases), 'purchase')} and {acts}"


def in_words(change: Change) -> str:
    return f"{change.field}: {change.before or 'nothing'} → {change.after or 'nothing'}"


class ObjectOptions(NoteOptions, frozen=True):
    """What the person objects to."""

    purpose: Text | None = option("Object only to mail of this purpose (default: all marketing).")
    brand: Text | None = option("Object only to marketing of this brand.", metavar="NAME")
    profiling: bool = flag("Object to profiling too: the profile is frozen.")
    only_profiling: bool = flag("Object to profiling, but not to the mail.")
    since: LastMoment | None = option(f"When they said so (default: now). {TIME_HELP}.")


@command("object")
def object_(settings: Settings, address: RecordedAddress, options: ObjectOptions) -> Result:
    """Record that a person objects to marketing (RGPD 21(2)), and to profiling for it.

    It adds a suppression of origin `objection`, which no consent overrides. After an objection
    to profiling no import changes or adds occupations, tags or last_activity_at, or lifts the
    objection.
    """
    purpose = options.purpose
    if options.only_profiling and (purpose or options.brand or options.note):
        raise click.UsageError(
            "--purpose, --brand and --note are about mail: leave out --only-profiling"
        )
    if purpose and options.brand:
        raise click.UsageError("give --purpose or --brand, not both")
    since = options.since
    warn_of_the_future("--since", since, "it counts from now on anyway")
    at = since or now()
    scope = None
    if not options.only_profiling:
        scope = f"purpose:{purpose}" if purpose else "marketing"
        if options.brand is not None:
            scope = f"brand:{options.brand}"
        scope = known_scope(settings, scope)
    freezes = options.profiling or options.only_profiling

    async def record(store: Store) -> None:
        if scope:
            entry = SuppressionEntry(address, scope, Origin.OBJECTION, at, options.checked_note())
            await store.add_suppressions([entry])
        if freezes:
            mark = Contact(address, profiling_objected_at=at)
            await store.put_contacts([ContactUpdate(mark, given=frozenset())])

    using_store(settings, record)
    text = []
    if scope:
        text.append(f"{address}: objection to {scope} recorded; no consent overrides it")
    if freezes:
        text.append(f"{address}: objection to profiling recorded; the profile is frozen")
    data = {"address": address, "scope": scope, "profiling": freezes, "since": at}
    return with_effect(settings, address, Result(data, text))


@command("erase")
def erase(
    settings: Settings,
    address: RecordedAddress,
    scope: Literal["marketing", "all"] = option(
        "What they no longer receive; `all` includes receipts and passwords.", default="marketing"
    ),
    keep_record: bool = flag("Leave the audit log as it is, to defend legal claims."),
    yes: bool = YES,
) -> Result:
    """Erase a contact with its whole history, and the person from the audit log (RGPD 17).

    An `erasure` suppression stays, which holds no address: the person gets no marketing
    again, and imports leave them out. It yields only to consent that the person gives later,
    recorded by `consent record`. The decisions stay on record without the person, and the
    record stays provable. With --keep-record they also keep the person and the proof of consent,
    as you may while claims are to be expected (RGPD 17(3)(e)): tell the person so.

    Only the exact address is erased: variants with another plus-tag, and former addresses of
    the contact, are listed for you to erase one by one.
    """

    def question() -> str:
        found = _known(settings, address) or "no contact"
        where = "" if keep_record else ", in the audit log too,"
        return f"{address} is {found}: erase the person{where} for good?"

    async def run(store: Store) -> erasure.Erasure:
        for other in await erasure.others_of(store, address):  # known even if the rest fails
            warn(
                f"{other} may be the same person and is not erased by this command: unless you have"
                f" erased it already, run smtpproxy contact erase {other}"
            )
        return await erasure.erase(
            settings, store, address, at=now(), scope=scope, keep_record=keep_record
        )

    ask_first(question, yes=yes)
    done = using_store(settings, run)
    if done.left:
        fail(f"{address}: the contact is erased, but in the audit log {done.left}")
    data: dict[str, object] = {"address": address, "erased": done.erased}
    data |= {"suppressed": scope, "audit_rows": done.rows}
    what = "erased" if done.erased else "there was no contact"
    text = [f"{address}: {what}; suppressed for {scope}"]
    if done.reports:
        data["reports"] = done.reports
        reports = counted(done.reports, "report is", "reports are")
        text.append(f"feedback mailbox: {reports} removed")
    if keep_record:
        text.append("audit log: unchanged, the decisions about the person stay on record")
    if done.rows:
        text.append(f"audit log: {counted(done.rows, 'row is', 'rows are')} pseudonymised")
    if done.behind:
        data["relays_behind"] = done.behind
        relays = ", ".join(done.behind)
        text.append(
            f"other relays: {relays} will erase the person from their audit logs and from lines"
            " that imports over the API rejected, when they next run"
        )
    return with_effect(settings, address, Result(data, text))
