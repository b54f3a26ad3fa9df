"""Suppression scopes that name a brand or a purpose, and what they mean once that name is gone: an
objection must not lapse because its object was renamed."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from smtpproxy.policy.model import Stream

SCOPE_KINDS = ("all", "marketing", "brand", "purpose")
"""Two of them need a name: `brand:NAME`, `purpose:NAME`."""


class Scopes(Struct, frozen=True):
    """The names that scopes may have in a configuration."""

    brands: Collection[str]
    purposes: Collection[str]

    @classmethod
    def of(cls, streams: Mapping[str, Stream], brands: Collection[str] = ()) -> "Scopes":
        """The names in these streams, and of brands that may have no stream."""
        named = {stream.brand for stream in streams.values()}.union(brands)
        return cls(named, {each.purpose for each in streams.values() if each.purpose})

    def knows(self, scope: str) -> bool:
        """Whether the name in a scope exists; a scope without a name is always known."""
        kind, _, name = scope.partition(":")
        known = {"brand": self.brands, "purpose": self.purposes}.get(kind)
        return known is None or name in known

    def of_link(self, scope: str, stream: Stream | None) -> str:
        """Return the scope that a link from the stream's mail, made for this scope, stops today.

        If the name in its scope is gone, that is the scope of the stream's links now; if the stream
        is gone too, all marketing.
        """
        if self.knows(scope):
            return scope
        if stream is None or stream.purpose is None:
            return "marketing"
        return stream.unsubscribe_scope or f"purpose:{stream.purpose}"
