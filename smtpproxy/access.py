"""What one token may see and change: the data of its brands, and what affects their mail.

Of a contact it sees only what was said to its brands. Anybody who dealt only with other brands does
not exist for it.

A suppression of all marketing or of all mail affects every brand: each may see it, but only a token
for all brands may add or lift one. The same applies to a purpose that streams of other brands
share. A suppression of a brand that no longer exists affects all, because the brand may have been
renamed.
"""

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from smtpproxy.policy.model import EVERY_PURPOSE, Contact, collected, collections
from smtpproxy.settings import Settings
from smtpproxy.store.collected import is_void
from smtpproxy.store.merge import MARKS

_OF_ALL = ("tags", "language")


class OthersConcerned(Exception):
    """The request affects the mail of other brands; the text says what in it does."""


class Access:
    """The brands of one token; a token that names none is for all brands.

    `settings` has only what is of its brands, so that faults reveal nothing about others.
    """

    def __init__(self, token: str, brands: frozenset[str], settings: Settings) -> None:
        self.token = token
        self.by = f"token {token}"  # the author as recorded with what is written
        self.brands = brands
        self.everything = not brands
        streams = settings.streams.values()
        self.settings = settings if self.everything else _of_brands(settings, brands)
        self.known_brands = settings.brand_names
        self._bearing = {s.purpose for s in streams if s.purpose and s.brand in brands}
        others = {s.purpose for s in streams if s.brand not in brands}
        self._own = self._bearing - others

    def sees_brand(self, brand: str | None) -> bool:
        return self.everything or brand in self.brands

    def sees_scope(self, scope: str) -> bool:
        """Whether a suppression of that scope affects the mail of the token's brands."""
        kind, _, name = scope.partition(":")
        if self.everything or kind in ("all", "marketing"):
            return True
        if kind == "brand":
            return name in self.brands or name not in self.known_brands
        return name in self._bearing

    def changes_scope(self, scope: str) -> bool:
        """Whether a suppression of that scope affects no other brand's mail."""
        kind, _, name = scope.partition(":")
        return self.everything or name in {"brand": self.brands, "purpose": self._own}.get(kind, ())

    def sees_import(self, brands: Collection[str]) -> bool:
        """Whether an import for these brands (none: for all) may be seen."""
        return self.everything or (bool(brands) and self.brands.issuperset(brands))

    def seen(self, contact: Contact) -> Contact | None:
        """Return the visible part of a contact; None if it had nothing to do with the brands."""
        if self.everything:
            return contact
        sees = self.sees_brand
        ways = tuple(way for way in collections(contact) if sees(way.brand))
        acts = tuple(act for act in contact.acts if sees(act.brand))
        purchases = tuple(one for one in contact.purchases if sees(one.brand))
        wishes = tuple(wish for wish in contact.preferences if sees(wish.brand))
        if not (ways or acts or purchases or wishes):
            return None
        from_all = (act for act in contact.acts if act.withdrawal and act.brand is None)
        acts = tuple(sorted((*acts, *from_all), key=lambda act: act.at))
        own = replace(
            contact,
            tags=frozenset(),
            first_contacted_at=None,
            profiling_objected_at=None,
            language=None,
            acts=acts,
            purchases=purchases,
            preferences=wishes,
        )
        return collected(own, ways)

    def hides(self, contact: Contact) -> bool:
        return self.seen(contact) is None

    def brand(self, asked: str | None) -> str | None:
        """Return the requested brand, or the token's only one.

        Raises OthersConcerned.
        """
        if asked is None and len(self.brands) == 1:
            return next(iter(self.brands))
        self.check_brands([asked])
        return asked

    def check_brands(self, brands: Iterable[str | None]) -> None:
        """Raises OthersConcerned if one is not the token's; None means every brand."""
        for brand in brands:
            if not self.sees_brand(brand):
                what = "all brands" if brand is None else f"the brand {brand!r}"
                self.refuse(what)

    def check_scope(self, scope: str) -> None:
        """Raises OthersConcerned if a suppression of that scope would affect other brands' mail."""
        if not self.changes_scope(scope):
            self.refuse(f"the scope {scope!r}")

    def check_contact(self, contact: Contact, given: Collection[str]) -> None:
        """Raises OthersConcerned if the data given affects other brands' mail."""
        if self.everything:
            return
        affected = [name for name in _OF_ALL if name in given or (name == "tags" and contact.tags)]
        affected += [name for name in MARKS if getattr(contact, name) is not None]
        if affected:
            self.refuse(", ".join(affected))
        ways = collections(contact)
        self.check_brands(way.brand for way in ways if way.brand or not is_void(way))
        self.check_brands(act.brand for act in contact.acts)
        self.check_brands(one.brand for one in contact.purchases)
        self.check_brands(wish.brand for wish in contact.preferences)
        purposes = {*self.settings.purposes, EVERY_PURPOSE}
        if any(act.withdrawal and act.purpose not in purposes for act in contact.acts):
            self.refuse("a purpose that no stream has")

    def check_everything(self, what: str) -> None:
        """Raises OthersConcerned unless the token is for all brands."""
        if not self.everything:
            self.refuse(what)

    def refuse(self, what: str) -> None:
        own = ", ".join(sorted(self.brands))
        text = f"the token {self.token} is for {own} alone, and {what[:80]} concerns others"
        raise OthersConcerned(text)


def _of_brands(settings: Settings, brands: Collection[str]) -> Settings:
    own = {name: one for name, one in settings.streams.items() if one.brand in brands}
    declared = tuple(one for one in settings.declared_brands if one.name in brands)
    return replace(settings, streams=own, declared_brands=declared)
