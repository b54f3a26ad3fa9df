"""Counting the suppressions and wishes that name a brand or a purpose, and renaming those."""

from collections import Counter

from msgspec import Struct

from smtpproxy.policy.model import BUILT_IN_BRAND
from smtpproxy.policy.scopes import Scopes
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted


class LostScope(Struct, frozen=True):
    """A scope whose brand or purpose is not configured: the consequence, and the remedy."""

    scope: str
    text: str
    fix: str


async def lost_scopes(scopes: Scopes, store: Store) -> list[LostScope]:
    """Return the lost scopes of suppressions and wishes. Raises StoreUnavailable."""
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


_LOST = {"brand": "a brand that has no [[brand]]", "purpose": "a purpose that no stream has"}
_STOPPED = {"brand": "the marketing of every brand", "purpose": "nothing"}


def _lost(scope: str, suppressions: int, wishes: int) -> LostScope:
    kind = scope.partition(":")[0]
    rows, effects = [], []
    if suppressions:
        rows.append(counted(suppressions, "suppression"))
        effects.append(f"{'they' if not wishes else 'suppressions'} stop {_STOPPED[kind]}")
    if wishes:
        rows.append(f"{counted(wishes, 'wish', 'wishes')} for less mail")
        effects.append(f"{'they' if not suppressions else 'wishes'} have no effect")
    text = f"{' and '.join(rows)} for {_LOST[kind]}: {', '.join(effects)}"
    move = f'smtpproxy suppress move "{scope}" {kind}:NAME'
    return LostScope(scope, text, f"if it was renamed: {move}; otherwise leave them")
