"""How many suppressions name a brand or a purpose, and giving them another name."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from smtpproxy.policy.scopes import Scopes
from smtpproxy.terminal import counted


class ScopeStore(Protocol):
    async def named_scopes(self) -> Mapping[str, int]:
        """Return how many suppressions there are of each scope that names a brand or a purpose."""
        ...

    async def consent_purposes(self) -> Sequence[str]:
        """Return every purpose that a consent act was ever recorded for."""
        ...

    async def move_scope(self, old: str, new: str) -> int:
        """Give all suppressions of a scope another one, some at a time; return how many.

        Where there is one of the new scope already, the later moment holds.
        """
        ...


class LostScope(Struct, frozen=True):
    """A scope that names what is not there: what its suppressions do, and what is to be done."""

    scope: str
    text: str
    fix: str


def lost_scopes(scopes: Scopes, counts: Mapping[str, int]) -> list[LostScope]:
    """Return those among the scopes that suppressions have, so many of each."""
    lost = sorted(scope for scope, n in counts.items() if not scopes.knows(scope))
    return [_lost(scope, counted(counts[scope], "suppression")) for scope in lost]


def _lost(scope: str, people: str) -> LostScope:
    kind = scope.partition(":")[0]
    if kind == "brand":
        text = f"{people} of a brand that no [[brand]] is: they stop the marketing of every brand"
    else:
        text = f"{people} of a purpose that no stream has: they stop nothing"
    move = f'smtpproxy suppress move "{scope}" {kind}:NAME'
    return LostScope(scope, text, f"if it is called otherwise now: {move}; else leave them")
