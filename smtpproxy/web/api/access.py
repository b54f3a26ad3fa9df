"""What one token may see and change: that of its brands, and what bears on their mail.

An order about all marketing, or about all mail, bears on the mail of every brand: each may see it,
and only a token that is for all brands may give or lift one. So it is with a purpose that streams
of other brands have too. What names a brand that is not there any more bears on all: it may have
another name now.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from smtpproxy.settings import Settings, TokenSettings
from smtpproxy.web.api.problems import Refused


class Access:
    """The brands of one token; a token without any is for all.

    `settings` are those of its brands: faults name no stream, purpose or brand of others.
    """

    def __init__(self, token: TokenSettings, settings: Settings) -> None:
        self.token = token.name
        self.brands = token.brands
        self.everything = not token.brands
        streams = settings.streams.values()
        self.settings = settings if self.everything else _of_brands(settings, token.brands)
        self.known_brands = settings.brand_names
        self._bearing = {s.purpose for s in streams if s.purpose and s.brand in token.brands}
        others = {s.purpose for s in streams if s.brand not in token.brands}
        self._own = self._bearing - others

    def sees_brand(self, brand: str | None) -> bool:
        return self.everything or brand in self.brands

    def sees_scope(self, scope: str) -> bool:
        """Whether a suppression of that scope bears on the mail of the token's brands."""
        kind, _, name = scope.partition(":")
        if self.everything or kind in ("all", "marketing"):
            return True
        if kind == "brand":
            return name in self.brands or name not in self.known_brands
        return name in self._bearing

    def changes_scope(self, scope: str) -> bool:
        """Whether a suppression of that scope bears on no other brand's mail."""
        kind, _, name = scope.partition(":")
        return self.everything or name in {"brand": self.brands, "purpose": self._own}.get(kind, ())

    def brand(self, asked: str | None) -> str | None:
        """Return the brand that is asked for, or the only one of the token. Raises Refused."""
        if asked is None and len(self.brands) == 1:
            return next(iter(self.brands))
        self.check_brands([asked])
        return asked

    def check_brands(self, brands: Iterable[str | None]) -> None:
        """Raises Refused where one is none of the token's; None is every brand."""
        for brand in brands:
            if not self.sees_brand(brand):
                what = "all brands" if brand is None else f"the brand {brand!r}"
                self.refuse(what)

    def check_scope(self, scope: str) -> None:
        """Raises Refused where a suppression of that scope would bear on others' mail."""
        if not self.changes_scope(scope):
            self.refuse(f"the scope {scope!r}")

    def check_everything(self, what: str) -> None:
        """Raises Refused unless the token is for all brands."""
        if not self.everything:
            self.refuse(what)

    def refuse(self, what: str) -> None:
        own = ", ".join(sorted(self.brands))
        text = f"the token {self.token} is for {own} alone, and {what[:80]} concerns others"
        raise Refused("not_of_your_brand", text)


def _of_brands(settings: Settings, brands: Collection[str]) -> Settings:
    own = {name: one for name, one in settings.streams.items() if one.brand in brands}
    declared = tuple(one for one in settings.declared_brands if one.name in brands)
    return replace(settings, streams=own, declared_brands=declared)
