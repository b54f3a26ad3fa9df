"""How often people want mail, by the brand and purpose they said it of: counted, and renamed."""

from collections import Counter
from collections.abc import Mapping

from msgspec.structs import replace

from smtpproxy.policy.model import BUILT_IN_BRAND, Preference
from smtpproxy.store.merge import newest_preferences
from smtpproxy.store.sql import rows
from smtpproxy.store.sql.session import Connections

# As in the index of those who have any: few have.
_WISHING = """
SELECT id, more FROM contact WHERE id > ? AND more LIKE '%"preferences":%' ORDER BY id LIMIT ?
"""
_PUT = "UPDATE contact SET more = ? WHERE id = ?"
_PAGE_SIZE = 1_000


class Wishes(Connections):
    """Keeps the part of `ScopeStore` that is about wishes, for the store that it is mixed into."""

    async def named_wishes(self) -> Mapping[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        last = 0
        async with self._reading() as session:
            while page := await session.fetch_all(_WISHING, last, _PAGE_SIZE):
                for _, more in page:
                    found.update((wish.brand, wish.purpose) for wish in rows.preferences(more))
                last = page[-1][0]
        return found

    async def move_wishes(self, old: str, new: str) -> int:
        moved = last = 0
        while True:  # a batch each commit: the mail path waits for none of them
            changed = []
            async with self._to_write().transaction() as session:
                page = await session.fetch_all(_WISHING, last, _PAGE_SIZE)
                for number, more in page:
                    wishes = rows.preferences(more)
                    now = [_renamed(wish, old, new) for wish in wishes]
                    if n := sum(a is not b for a, b in zip(wishes, now, strict=True)):
                        moved += n
                        told = newest_preferences(now)
                        changed.append((rows.with_preferences(more, told), number))
                await session.run_many(_PUT, changed)
            if not page:
                return moved
            last = page[-1][0]


def _renamed(wish: Preference, old: str, new: str) -> Preference:
    """`marketing` as the new name of a brand: the wish holds for all of them."""
    if old == f"brand:{wish.brand}":
        return replace(wish, brand=new.partition(":")[2] or BUILT_IN_BRAND)
    if old == f"purpose:{wish.purpose}" and new != "marketing":
        return replace(wish, purpose=new.partition(":")[2])
    return wish
