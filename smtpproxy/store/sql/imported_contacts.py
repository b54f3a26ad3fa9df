"""The origins and earlier states of imported contacts, which the undoing of an import needs."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from smtpproxy.policy.model import Contact
from smtpproxy.store.collected import included_in
from smtpproxy.store.merge import Known
from smtpproxy.store.records import ContactUpdate
from smtpproxy.store.sql.rows import Row
from smtpproxy.store.sql.session import Session, listed, looked_up
from smtpproxy.store.undo_contact import Repeated, Replaced

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
OF_ASKED = "contact = CAST(asked.value AS BIGINT)"
_CHAINS = f"""
SELECT contact, import, replaced_by, state FROM json_each(?) AS asked
{looked_up("contact_version", OF_ASKED)} WHERE {OF_ASKED} ORDER BY contact, number
"""
IS_ASKED = "contact.id = CAST(asked.value AS BIGINT)"
_ORIGINS = f"""
SELECT contact.id, import, withdrawal_confirmed, told FROM json_each(?) AS asked
{looked_up("contact", IS_ASKED)} WHERE {IS_ASKED}
"""
# Contacts that the import created, and that nobody else has touched since.
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


_State = tuple[Contact, datetime | None]
_decode = msgspec.json.Decoder(_State).decode
_read_repeats = msgspec.json.Decoder(tuple[Repeated, ...]).decode
_encode = msgspec.json.Encoder().encode


class Origin(Struct, frozen=True):
    """The origin of a contact's present state."""

    owner: int | None = None  # the import that made it
    confirmed: bool = False  # several have given a withdrawal in it
    repeats: Sequence[Repeated] = ()  # by later imports

    def row(self) -> Row:
        """Return its columns import, withdrawal_confirmed and told."""
        repeats = _encode(self.repeats).decode() if self.repeats else None
        return (self.owner, 1 if self.confirmed else None, repeats)


def confirms(known: Known, update: ContactUpdate) -> bool:
    """Whether an update repeats a known withdrawal."""
    if not update.contact.acts:
        return False
    is_known = included_in(known.contact.acts)
    return any(act.withdrawal and is_known(act) for act in update.contact.acts)


def version_row(number: int, known: Known, owner: int | None, by: int | None) -> Row:
    """Return the row for a state that `by` replaces."""
    return (number, owner, by, _encode((known.contact, known.as_of)).decode())


async def remember(session: Session, versions: Iterable[Row]) -> None:
    await session.run_many(_INSERT, versions)


async def origins(session: Session, numbers: Sequence[int]) -> dict[int, Origin]:
    """Return the origin of each contact."""
    if not numbers:
        return {}
    found = await session.fetch_all(_ORIGINS, listed(numbers))
    return {
        number: Origin(owner, confirmed is not None, _read_repeats(told) if told else ())
        for number, owner, confirmed, told in found
    }


async def changed(session: Session, number: int, after: int, limit: int) -> list[int]:
    """Return the next contacts that the import and others have touched."""
    found = await session.fetch_all(_CHANGED, after, number, limit, f'%"{number}"%')
    return [row[0] for row in found]


async def chains(session: Session, contacts: Sequence[int]) -> dict[int, list[Replaced]]:
    """Return the earlier states of each contact, oldest first."""
    found: dict[int, list[Replaced]] = {}
    for contact, owner, by, state in await session.fetch_all(_CHAINS, listed(contacts)):
        known = Known(*_decode(state))
        found.setdefault(contact, []).append(Replaced(known, owner, by))
    return found


async def count_made(session: Session, number: int, first: int, last: int) -> tuple[int, int]:
    """Return the numbers of contacts only the import has touched: those to remove, and those that
    stay because others have confirmed a withdrawal."""
    counted = f"SELECT count(*), count(withdrawal_confirmed) {_MADE}"
    found = await session.fetch_all(counted, first, last, number)
    return found[0][0] - found[0][1], found[0][1]


async def addresses_made(session: Session, number: int, first: int, last: int) -> list[str]:
    """Return the addresses of the contacts that `remove_made` would remove."""
    made = f"SELECT address {_MADE} AND NOT ({_CONFIRMED})"
    return [row[0] for row in await session.fetch_all(made, first, last, number)]


async def remove_made(session: Session, number: int, first: int, last: int) -> int:
    """Remove the contacts in this range that only the import has touched."""
    return await session.run_many(
        f"DELETE FROM contact WHERE id IN (SELECT id {_MADE} AND NOT ({_CONFIRMED}))",
        [(first, last, number)],
    )


async def confirmed_made(session: Session, number: int, first: int, last: int) -> list[int]:
    """Return the contacts in this range that cannot be removed whole."""
    found = await session.fetch_all(f"SELECT id {_MADE} AND {_CONFIRMED}", first, last, number)
    return [row[0] for row in found]


async def forget(session: Session, before: int, limit: int) -> int:
    """Delete the earlier states of contacts that imports with a lower number replaced."""
    return await session.run_many(_FORGET, [(before, limit)])
