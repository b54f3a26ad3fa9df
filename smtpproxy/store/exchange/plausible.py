"""Checking an import's lines against the configuration, the clock and each other."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from operator import attrgetter

from msgspec.structs import replace

from smtpproxy.policy.model import (
    EVERY_PURPOSE,
    Audience,
    ConsentAct,
    Contact,
    Origin,
    collected,
    collections,
)
from smtpproxy.policy.rules.recipient import is_within, names_role
from smtpproxy.settings import Settings
from smtpproxy.store.collected import is_void
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected, UndatedConsent
from smtpproxy.store.exchange.times import NO_EARLIER, written_time
from smtpproxy.store.merge import refusals
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.terminal import counted

GRACE = timedelta(days=1)
"""How far in the future a fact may be dated, for clocks and time zones that differ."""
SKEW = timedelta(minutes=5)
"""How far in the future a consent or a file may be dated, for clocks that differ."""

FREE_TEXT = "it may contain personal data, which no list of the suppressed should (docs/data.md)"

_PROFILE = ("collected_at", "informed_at", "last_activity_at", "first_contacted_at")
_read_profile = attrgetter(*_PROFILE)
_is_withdrawal = attrgetter("withdrawal")

CheckOwn = Callable[[Contact, Collection[str]], None]

Item = Read[ContactUpdate] | Rejected | Passed


class ContactCheck:
    """Checks the lines of an import of contacts before they are stored.

    Rejects lines with an unknown purpose or method, facts in the future, or a generic address at
    a provider of private mailboxes; counts what the user should know about.
    """

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        brand: str | None = None,
        own: CheckOwn | None = None,
    ) -> None:
        """`brand`: the default brand. `own` raises if a contact touches other brands' data."""
        self._own = own
        self._purposes = settings.purposes
        self._withdrawable = {*self._purposes, EVERY_PURPOSE}
        self._brand = brand
        self._brands = settings.brand_names
        self._needs_brand = len(self._brands) > 1
        self.brandless = 0  # lines with something that names no brand
        self._methods = settings.methods
        self._consumer_domains = settings.consumer_domains
        self._restricted_tags = settings.restricted_tags
        self._now = now
        self.postdated = 0  # contacts with a refusal that has no possible date
        self.undated = 0  # lines with a consent without its date
        self.professionals = 0  # at providers of private mailboxes
        self._roles = settings.role_local_parts
        self.personal = 0  # addresses said to be generic that name no role
        self._unannounced = settings.unannounced_sources
        self.passed_on = 0  # addresses whose source no first message has to name
        self.withdrawn: Counter[str] = Counter()  # withdrawals, by unknown purpose

    def checked(self, contents: Contents[ContactUpdate]) -> Contents[ContactUpdate]:
        items = (self._checked(item, contents.worded) for item in contents.items)
        return replace(contents, items=items)

    def orders(self, updates: Sequence[ContactUpdate]) -> list[SuppressionEntry]:
        """Return the suppressions that withdrawals from unknown purposes become.

        A no to something unknown here must not be ignored.
        """
        return [
            SuppressionEntry(update.contact.address, "marketing", Origin.UNSUBSCRIBE, act.at)
            for update in updates
            for act in update.contact.acts
            if act.withdrawal and act.purpose not in self._withdrawable
        ]

    def notices(self) -> Iterator[str]:
        """Yield notices for the user."""
        if self.postdated:
            yield (
                f"{counted(self.postdated, 'contact')} with a withdrawal or a wish dated in the "
                "future or before 1990: it counts from the time of the file"
            )
        if self.undated:
            yield (
                f"{counted(self.undated, 'line')} rejected for a consent without its date, which "
                "nobody can prove came first"
            )
        if self.withdrawn:
            yield (
                f"{counted_purposes(self.withdrawn, 'withdrawal')} that no stream has "
                f"({named(self.withdrawn)}): each counts for all marketing"
            )
        if self.brandless:
            yield (
                f"{counted(self.brandless, 'line')} without a brand: they allow nothing while there"
                " are several; name the file's with --brand"
            )
        if self.professionals:
            who = counted(self.professionals, "professional has", "professionals have")
            yield f"{who} an address at a provider of private mailboxes: check for consumers"
        if self.personal:
            which = counted(
                self.personal,
                "generic address names no department, and is",
                "generic addresses name no department, and are",
            )
            yield f"{which} mailed without any basis: check that none is a person's"
        if self.passed_on:
            yield (
                f"{counted(self.passed_on, 'address', 'addresses')} came from somebody else: the "
                "first message must say from whom (RGPD art. 14(3)(b)); see first_contact_notice"
            )

    def _checked(self, item: Item, worded: Callable[[str], str]) -> Item:
        if isinstance(item, Rejected):
            self.undated += item.is_undated
            return replace(item, refusal=self._refusal(item.refusal))
        if not isinstance(item, Read):
            return item
        try:
            return replace(item, value=self.update(item.value))
        except ValueError as error:
            self.undated += isinstance(error, UndatedConsent)
            refusal = self._refusal(item.value)
            return Rejected(item.number, worded(str(error)), (item.content,), refusal=refusal)

    def _refusal(self, update: ContactUpdate | None) -> ContactUpdate | None:
        """Return its refusals as they may be stored, or None if there are none that may be."""
        if update is None:
            return None
        acts = _meant(update.contact.acts)
        update = replace(
            update,
            contact=replace(update.contact, acts=acts),
            restricted_tags=self._restricted_tags,
        )
        consents_alone = Contact(update.contact.address, acts=acts)
        for attempt in (update, replace(update, contact=consents_alone)):
            refused = refusals(attempt)
            with suppress(ValueError):  # it touches other brands than those of the token
                return None if refused is None else self.update(refused)
        return None

    def update(self, update: ContactUpdate) -> ContactUpdate:
        """Return the update as it may be stored. Raises ValueError."""
        contact = _dated(self._happened(self._with_brand(update.contact), update.as_of))
        reason = yet_to_come(contact, self._now) or self._unknown(contact)
        private = contact.audience in (Audience.GENERIC, Audience.PROFESSIONAL) and is_within(
            contact.address.rpartition("@")[2], self._consumer_domains
        )
        if private and contact.audience is Audience.GENERIC:
            reason = reason or (
                "audience: generic is for addresses of an organisation, and this one is at a "
                "provider of private mailboxes; expected consumer"
            )
        if reason is not None:
            raise ValueError(reason)
        if self._own is not None:
            self._own(contact, update.given)
        self.professionals += private
        if self._roles and contact.audience is Audience.GENERIC:
            local = contact.address.rpartition("@")[0]
            self.personal += not names_role(local, self._roles)
        self.brandless += self._needs_brand and _lacks_brand(contact)
        if contact.first_contacted_at is None:
            sources = (contact.source, *(way.source for way in contact.others))
            self.passed_on += not self._unannounced.isdisjoint(sources)
        for act in contact.acts:
            if act.withdrawal and act.purpose not in self._withdrawable:
                self.withdrawn[act.purpose] += 1
        return replace(update, contact=contact, restricted_tags=self._restricted_tags)

    def _happened(self, contact: Contact, as_of: datetime | None) -> Contact:
        """Give refusals without a possible date the time of the file, by when they were made."""
        if not contact.preferences and not _withdraws(contact):
            return contact
        agreed: dict[str, datetime] = {}
        for act in contact.acts:
            if not act.withdrawal:
                for purpose in (act.purpose, EVERY_PURPOSE):
                    agreed[purpose] = max(act.at, agreed.get(purpose, act.at))

        def dated(act: ConsentAct) -> ConsentAct:
            if not act.withdrawal:
                return act
            at = by_now(act.at, self._now, as_of)
            return act if at == act.at else replace(act, at=max(at, agreed.get(act.purpose, at)))

        meant = _meant(contact.acts)
        acts = tuple(map(dated, meant))
        wishes = tuple(
            replace(one, at=by_now(one.at, self._now, as_of)) for one in contact.preferences
        )
        self.postdated += (acts, wishes) != (meant, contact.preferences)
        return replace(contact, acts=acts, preferences=wishes)

    def _with_brand(self, contact: Contact) -> Contact:
        """Fill in the brand of the file; a withdrawal from an unknown brand counts for all."""
        brand = self._brand
        if brand is not None:
            ways = [replace(way, brand=way.brand or brand) for way in collections(contact)]
            contact = replace(
                collected(contact, tuple(ways)),
                acts=tuple(replace(act, brand=act.brand or brand) for act in contact.acts),
                purchases=tuple(
                    replace(one, brand=one.brand or brand) for one in contact.purchases
                ),
            )
        if self._own is None and _withdraws(contact):
            return replace(contact, acts=tuple(map(self._of_known_brand, contact.acts)))
        return contact

    def _of_known_brand(self, act: ConsentAct) -> ConsentAct:
        return replace(act, brand=None) if act.withdrawal and act.brand not in self._brands else act

    def _unknown(self, contact: Contact) -> str | None:
        """Return a fault if a brand, or an agreement's purpose or method, is not configured."""
        for brand in _brands(contact):
            if brand is not None and brand not in self._brands:
                known = ", ".join(sorted(self._brands))
                right = f"known: {known}" if known else "the configuration has no [[brand]]"
                return f"brand: there is no brand {brand[:40]!r}; {right}"
        for act in contact.acts:
            if act.withdrawal:
                continue
            if act.purpose not in self._purposes:
                return unknown_purpose(act.purpose, self._purposes)
            if act.method is not None and act.method not in self._methods:
                known = ", ".join(sorted(self._methods))
                return f"consents: method {act.method[:40]!r} is not one of {known}"
        return None


def counted_purposes(by_purpose: Counter[str], what: str) -> str:
    count = by_purpose.total()
    return f"1 {what} is for a purpose" if count == 1 else f"{count:,} {what}s are for purposes"


def named(purposes: Iterable[str]) -> str:
    return ", ".join(repr(purpose[:40]) for purpose in sorted(purposes)[:5])


def _withdraws(contact: Contact) -> bool:
    return any(map(_is_withdrawal, contact.acts))


def _brands(contact: Contact) -> set[str | None]:
    """Return the brands of all that may allow mail, perhaps with None."""
    brands = {way.brand for way in contact.others} if contact.others else set()
    brands.add(contact.brand)
    for act in contact.acts:
        if not act.withdrawal:
            brands.add(act.brand)
    for one in contact.purchases:
        brands.add(one.brand)
    return brands


def _lacks_brand(contact: Contact) -> bool:
    """Whether something that may allow mail names no brand."""
    return (
        any(one.brand is None for one in contact.purchases)
        or any(act.brand is None and not act.withdrawal for act in contact.acts)
        or any(way.brand is None and not is_void(way) for way in collections(contact))
    )


def unknown_purpose(purpose: str, known: Iterable[str]) -> str:
    names = ", ".join(sorted(known))
    return f"consents: no stream has the purpose {purpose[:40]!r}; known: {names}"


def by_now(at: datetime, now: datetime, said: datetime | None = None) -> datetime:
    """Return when a refusal counts from: if it has no possible date, `said`, but at most now.

    A future time would outweigh all that the person agrees to until then, and one that stands for
    none would give way to all that they agreed to before.
    """
    return at if NO_EARLIER <= at <= now + GRACE else min(said or now, now)


def _meant(acts: Sequence[ConsentAct]) -> tuple[ConsentAct, ...]:
    """Return the acts without withdrawals whose date stands for none, next to an agreement to the
    same: it says that there was none."""
    agreed_to = {
        (purpose, act.brand, channel)
        for act in acts
        if not act.withdrawal and act.at >= NO_EARLIER
        for purpose in (act.purpose, EVERY_PURPOSE)
        for channel in act.channels
    }

    def is_meant(act: ConsentAct) -> bool:
        said = {(act.purpose, act.brand, channel) for channel in act.channels}
        return not act.withdrawal or act.at >= NO_EARLIER or not said <= agreed_to

    return tuple(act for act in acts if is_meant(act))


def _dated(contact: Contact) -> Contact:
    """Return the contact without purchases whose date stands for none. Raises UndatedConsent for
    such an agreement."""
    for act in contact.acts:
        if act.at < NO_EARLIER and not act.withdrawal:
            raise UndatedConsent(
                f"consents: given_at {written_time(act.at)} is how programs write that there is no"
                " date; leave it empty if they never agreed"
            )
    purchases = tuple(one for one in contact.purchases if one.at >= NO_EARLIER)
    if len(purchases) == len(contact.purchases):
        return contact
    return replace(contact, purchases=purchases)


def yet_to_come(contact: Contact, now: datetime) -> str | None:
    """Return a fault if a fact or an agreement of a contact is in the future, or None.

    Facts have a day's grace. An agreement has five minutes: at its time it would outweigh
    every withdrawal made until then. A withdrawal or an objection in the future is on the strict
    side, and accepted as of now: see `by_now`.
    """
    consents_until, facts_until = now + SKEW, now + GRACE
    for act in contact.acts:
        if act.at > consents_until and not act.withdrawal:
            return (
                f"consents: given_at {written_time(act.at)} is in the future: consent cannot"
                " be dated ahead"
            )
    facts = list(zip(_PROFILE, _read_profile(contact), strict=True))
    facts += [("purchases: at", purchase.at) for purchase in contact.purchases]
    if contact.provenance is not None:
        facts += [("provenance: chain: at", link.at) for link in contact.provenance.chain]
    for name, at in facts:
        if at is not None and at > facts_until:
            return f"{name} {written_time(at)} is in the future; expected the time when it happened"
    return None
