"""How many suppressions and wishes name a brand or a purpose, and giving them another name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from smtpproxy.policy.model import BUILT_IN_BRAND
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

    async def named_wishes(self) -> Mapping[tuple[str, str], int]:
        """Return how many wishes for a frequency there are of each brand and purpose."""
        ...

    async def move_wishes(self, old: str, new: str) -> int:
        """Give all wishes of a brand or purpose (as a scope) another one; return how many.

        `marketing` in the place of a brand: they hold for every brand; of a purpose: they stay.
        Where there is one of the new name already, the later one holds.
        """
        ...


class LostScope(Struct, frozen=True):
    """A scope that names what is not there: what is said of it, and what is to be done."""

    scope: str
    text: str
    fix: str


async def lost_scopes(scopes: Scopes, store: ScopeStore) -> list[LostScope]:
    """Return those among the scopes that suppressions and wishes have. Raises StoreUnavailable."""
    suppressed = await store.named_scopes()
    wished: Counter[str] = Counter()
    for (brand, purpose), n in (await store.named_wishes()).items():
        if brand != BUILT_IN_BRAND and not scopes.knows(f"brand:{brand}"):
            wished[f"brand:{brand}"] += n
        elif not scopes.knows(f"purpose:{purpose}"):
            wished[f"purpose:{purpose}"] += n
    lost = {scope for scope, n in suppressed.items() if n and not scopes.knows(scope)}
    return [
        _lost(scope, suppressed.get(scope, 0), wished[scope]) for scope in sorted(lost | {*wished})
    ]


_NOTHING_IS = {"brand": "a brand that no [[brand]] is", "purpose": "a purpose that no stream has"}
_STOPPED = {"brand": "the marketing of every brand", "purpose": "nothing"}


def _lost(scope: str, suppressions: int, wishes: int) -> LostScope:
    kind = scope.partition(":")[0]
    told, effects = [], []
    if suppressions:
        told.append(counted(suppressions, "suppression"))
        effects.append(f"{'they' if not wishes else 'suppressions'} stop {_STOPPED[kind]}")
    if wishes:
        told.append(f"{counted(wishes, 'wish', 'wishes')} for less mail")
        effects.append(f"{'they' if not suppressions else 'wishes'} hold for nothing")
    text = f"{' and '.join(told)} of {_NOTHING_IS[kind]}: {', '.join(effects)}"
    move = f'smtpproxy suppress move "{scope}" {kind}:NAME'
    return LostScope(scope, text, f"if it is called otherwise now: {move}; else leave them")
