"""The brands and purposes that suppressions, consents and wishes name, and renaming them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from smtpproxy.policy.model import BUILT_IN_BRAND, Preference
from smtpproxy.store.merge import newest_preferences
from smtpproxy.store.sql import rows
from smtpproxy.store.sql.session import Connections
from smtpproxy.store.sql.suppressions import FIRST, KEY

_PAGE_SIZE = 1_000
_OF_SCOPE = """
SELECT wide_key, exact_key, scope, origin FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?, ?, ?, ?) AND scope = ?5
ORDER BY wide_key, exact_key, scope, origin LIMIT ?6
"""
_MOVED = (
    "wide_key, exact_key, origin, since, key_version, note, given_by, import, also, earlier,"
    " renewed_at"
)
_AS_SCOPE = f"""
INSERT INTO suppression (scope, {_MOVED}) SELECT ?, {_MOVED} FROM suppression
WHERE wide_key = ? AND exact_key = ? AND scope = ? AND origin = ?
ON CONFLICT (wide_key, exact_key, scope, origin)
DO UPDATE SET
    since = CASE WHEN excluded.since > suppression.since THEN excluded.since
            ELSE suppression.since END,
    renewed_at = CASE WHEN excluded.renewed_at > suppression.renewed_at THEN excluded.renewed_at
                 ELSE suppression.renewed_at END
"""
_PURPOSES = "SELECT purpose FROM consent_purpose ORDER BY purpose"
# The condition is that of the index on contacts with wishes, which are few.
_WISHING = """
SELECT id, more FROM contact WHERE id > ? AND more LIKE '%"preferences":%' ORDER BY id LIMIT ?
"""
_PUT = "UPDATE contact SET more = ? WHERE id = ?"


class NamedScopes(Connections):
    """The part of a store about these names."""

    async def consent_purposes(self) -> Sequence[str]:
        """Return every purpose that a consent act was ever recorded for."""
        async with self._reading() as session:
            return [name for (name,) in await session.fetch_all(_PURPOSES)]

    async def move_scope(self, old: str, new: str) -> int:
        """Change the scope of suppressions, in small steps; return how many.

        If the address already has one with the new scope, the later time wins.
        """
        moved, last = 0, FIRST
        while True:  # commits are small, so that the mail path need not wait
            async with self._writing() as session:
                page = await session.fetch_all(_OF_SCOPE, *last, old, _PAGE_SIZE)
                await session.run_many(_AS_SCOPE, [(new, *key) for key in page])
                await session.run_many(f"DELETE FROM suppression WHERE {KEY}", page)
            if not page:
                return moved
            moved, last = moved + len(page), page[-1]

    async def named_wishes(self) -> Mapping[tuple[str, str], int]:
        """Return the number of wishes for a frequency by brand and purpose."""
        found: Counter[tuple[str, str]] = Counter()
        last = 0
        async with self._reading() as session:
            while page := await session.fetch_all(_WISHING, last, _PAGE_SIZE):
                for _, more in page:
                    found.update((wish.brand, wish.purpose) for wish in rows.preferences(more))
                last = page[-1][0]
        return found

    async def move_wishes(self, old: str, new: str) -> int:
        """Change the brand or the purpose (given as scopes) of wishes; return how many.

        From a brand to `marketing`: they then hold for every brand; from a purpose: they stay.
        If there is already one with the new name, the later one wins.
        """
        moved = last = 0
        while True:  # commits are small, so that the mail path need not wait
            changed = []
            async with self._writing() as session:
                page = await session.fetch_all(_WISHING, last, _PAGE_SIZE)
                for number, more in page:
                    wishes = rows.preferences(more)
                    now = [_renamed(wish, old, new) for wish in wishes]
                    if n := sum(a is not b for a, b in zip(wishes, now, strict=True)):
                        moved += n
                        newest = newest_preferences(now)
                        changed.append((rows.with_preferences(more, newest), number))
                await session.run_many(_PUT, changed)
            if not page:
                return moved
            last = page[-1][0]


def _renamed(wish: Preference, old: str, new: str) -> Preference:
    """Return the wish with the new brand or purpose; `marketing` as a brand means all brands."""
    if old == f"brand:{wish.brand}":
        return replace(wish, brand=new.partition(":")[2] or BUILT_IN_BRAND)
    if old == f"purpose:{wish.purpose}" and new != "marketing":
        return replace(wish, purpose=new.partition(":")[2])
    return wish
