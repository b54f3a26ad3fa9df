"""Scopes of suppressions that name a brand or a purpose, and what they hold for once nothing is
called that any more: an objection must not lapse because somebody renamed what it was about."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from smtpproxy.policy.model import Stream

SCOPE_KINDS = ("all", "marketing", "brand", "purpose")
"""Two of them name something: `brand:NAME`, `purpose:NAME`."""


class Scopes(Struct, frozen=True):
    """The names that scopes may have in a configuration."""

    brands: Collection[str]
    purposes: Collection[str]

    @classmethod
    def of(cls, streams: Mapping[str, Stream], brands: Collection[str] = ()) -> "Scopes":
        """Those of some streams, and of brands that may have none."""
        named = {stream.brand for stream in streams.values()}.union(brands)
        return cls(named, {each.purpose for each in streams.values() if each.purpose})

    def knows(self, scope: str) -> bool:
        """Whether what a scope names is there; one that names nothing is always known."""
        kind, _, name = scope.partition(":")
        known = {"brand": self.brands, "purpose": self.purposes}.get(kind)
        return known is None or name in known

    def of_link(self, scope: str, stream: Stream | None) -> str:
        """Return what a link stops today that was made for a scope, in mail of the stream.

        Where what it named is gone, that is what links of the stream say now, and all marketing
        where the stream is gone too.
        """
        if self.knows(scope):
            return scope
        if stream is None or stream.purpose is None:
            return "marketing"
        return stream.unsubscribe_scope or f"purpose:{stream.purpose}"
