"""Which import a contact is from, what it was before, and how an import is taken back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from smtpproxy.policy.model import Contact
from smtpproxy.store.collected import is_told
from smtpproxy.store.merge import Known
from smtpproxy.store.protocols import ContactUpdate
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sql.session import Session
from smtpproxy.store.undo_contact import Replaced, Told

_INSERT = """
INSERT INTO contact_version (contact, number, import, replaced_by, state)
SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM contact_version WHERE contact = ?1
"""
_CHANGED = """
SELECT contact FROM (
    SELECT DISTINCT contact FROM contact_version
    WHERE contact > ?1 AND (import = ?2 OR replaced_by = ?2) ORDER BY contact LIMIT ?3
) AS changed UNION SELECT id FROM (
    SELECT id FROM contact
    WHERE id > ?1 AND told IS NOT NULL AND (import = ?2 OR told LIKE ?4) ORDER BY id LIMIT ?3
) AS told ORDER BY 1 LIMIT ?3
"""
_CHAINS = """
SELECT contact, import, replaced_by, state FROM contact_version
WHERE contact IN (SELECT CAST(value AS BIGINT) FROM json_each(?)) ORDER BY contact, number
"""
_ORIGINS = """
SELECT id, import, withdrawal_confirmed, told FROM contact
WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))
"""
# Those that the import made, and nobody has touched since.
_MADE = """
FROM contact WHERE id BETWEEN ?1 AND ?2 AND import = ?3 AND told IS NULL
AND NOT EXISTS (SELECT 1 FROM contact_version WHERE contact = contact.id)
"""
_FORGET = """
DELETE FROM contact_version WHERE (contact, number) IN (
    SELECT contact, number FROM contact_version
    WHERE coalesce(import, replaced_by) < ?1 AND coalesce(replaced_by, import) < ?1 LIMIT ?2)
"""
_CONFIRMED = "withdrawal_confirmed IS NOT NULL"

# Half of what a state takes is the address, which the contact has.
_State = tuple[Contact, datetime | None]
_decode = msgspec.json.Decoder(_State).decode
_read_told = msgspec.json.Decoder(tuple[Told, ...]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose state the row of a contact is in."""

    owner: int | None = None
    confirmed: bool = False  # a withdrawal in it was told by several
    told: Sequence[Told] = ()  # what later imports said again

    def row(self) -> Row:
        """Return its columns import, withdrawal_confirmed and told."""
        told = _encode(self.told).decode() if self.told else None
        return (self.owner, 1 if self.confirmed else None, told)


def confirms(known: Known | None, update: ContactUpdate) -> bool:
    """Tell whether a withdrawal that is known is told again."""
    if known is None or not update.contact.acts:
        return False
    acts = known.contact.acts
    return any(act.withdrawal and is_told(act, acts) for act in update.contact.acts)


def version_row(number: int, known: Known, owner: int | None, by: int | None) -> Row:
    """Return the row of a state that `by` takes the place of."""
    return (number, owner, by, _encode((known.contact, known.as_of)).decode())


async def remember(session: Session, versions: Iterable[Row]) -> None:
    await session.run_many(_INSERT, versions)


async def origins(session: Session, numbers: Sequence[int]) -> dict[int, Origin]:
    """Return whose state each contact is in."""
    if not numbers:
        return {}
    found = await session.fetch_all(_ORIGINS, msgspec.json.encode(numbers).decode())
    return {
        number: Origin(owner, confirmed is not None, _read_told(told) if told else ())
        for number, owner, confirmed, told in found
    }


async def changed(session: Session, number: int, after: int, limit: int) -> list[int]:
    """Return the next contacts that others had to do with too, before the import or after it."""
    found = await session.fetch_all(_CHANGED, after, number, limit, f'%"{number}"%')
    return [row[0] for row in found]


async def chains(session: Session, contacts: Sequence[int]) -> dict[int, list[Replaced]]:
    """Return what each contact was before, oldest first."""
    found: dict[int, list[Replaced]] = {}
    asked = msgspec.json.encode(contacts).decode()
    for contact, owner, by, state in await session.fetch_all(_CHAINS, asked):
        known = Known(*_decode(state))
        found.setdefault(contact, []).append(Replaced(known, owner, by))
    return found


async def count_made(session: Session, number: int, first: int, last: int) -> tuple[int, int]:
    """Return how many contacts of the import nobody has touched since, and how many stay.

    Those stay in which a withdrawal was confirmed.
    """
    counted = f"SELECT count(*), count(withdrawal_confirmed) {_MADE}"
    found = await session.fetch_all(counted, first, last, number)
    return found[0][0] - found[0][1], found[0][1]


async def addresses_made(session: Session, number: int, first: int, last: int) -> list[str]:
    """Return whose contacts `remove_made` would remove."""
    made = f"SELECT address {_MADE} AND NOT ({_CONFIRMED})"
    return [row[0] for row in await session.fetch_all(made, first, last, number)]


async def remove_made(session: Session, number: int, first: int, last: int) -> int:
    """Remove the contacts of the import in this range that nobody has touched since."""
    return await session.run_many(
        f"DELETE FROM contact WHERE id IN (SELECT id {_MADE} AND NOT ({_CONFIRMED}))",
        [(first, last, number)],
    )


async def confirmed_made(session: Session, number: int, first: int, last: int) -> list[int]:
    """Return those of the range that cannot simply go."""
    found = await session.fetch_all(f"SELECT id {_MADE} AND {_CONFIRMED}", first, last, number)
    return [row[0] for row in found]


async def forget(session: Session, before: int, limit: int) -> int:
    """Remove what contacts were before, of imports with a lower number."""
    return await session.run_many(_FORGET, [(before, limit)])
