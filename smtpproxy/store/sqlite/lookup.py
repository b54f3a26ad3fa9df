"""The one statement that finds all that is known of an address."""

from collections.abc import Sequence
from typing import NamedTuple

from smtpproxy.store.keys import SuppressionKey
from smtpproxy.store.merge import WIDENED_ORIGINS
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.rows import ACT_COLUMNS, CONTACT_COLUMNS

FIRST_ACT = 1 + len(CONTACT_COLUMNS.split(","))
_WIDTH = FIRST_ACT + len(ACT_COLUMNS.split(","))
_ORIGINS = ", ".join(f"'{origin}'" for origin in sorted(WIDENED_ORIGINS))

# {wide} and {exact} are the places of the address's keys.
_SUPPRESSIONS = """
SELECT exact_key = {exact}, scope, origin, since, note{padding} FROM {view}
WHERE wide_key = {wide} AND (exact_key = {exact} OR origin IN ({origins}))
"""
# What a partner told counts as `external`; whether it counts for variants of the mailbox is
# up to the origin that it has there.
_PARTNER = """
SELECT exact_key = {exact}, scope, 'external', since, 'partner {name}: ' || origin{padding}
FROM partner_snapshot CROSS JOIN partner_entry USING (snapshot)
WHERE partner = '{name}' AND key = '{key}'
AND wide_key = {wide} AND (exact_key = {exact} OR origin IN ({origins}))
"""
_AGE = """
SELECT 2, NULL, NULL, CASE count(*) WHEN {count} THEN min(taken_at) END, NULL{padding}
FROM partner_snapshot WHERE (partner, key) IN (VALUES {wanted})
"""
_CONTACT = f"""
SELECT NULL, {CONTACT_COLUMNS}, {ACT_COLUMNS}
FROM contact LEFT JOIN consent_act ON consent_act.contact = contact.id
WHERE address = {{address}}
"""


class Partner(NamedTuple):
    """A partner of the exchange and the key shared with it."""

    name: str
    key: SuppressionKey


class Statements(NamedTuple):
    """What to ask; the values are `values_of`'s, and for the contact the address itself."""

    suppressions: str
    everything: str


def statements(
    versions: Sequence[int], partners: Sequence[Partner] = (), *, age: bool = False
) -> Statements:
    """Return the statements while the keys of these versions are live.

    One statement is one snapshot and takes the read lock once. A first column of NULL is
    the contact, with one of its acts in each row; two is the age of the partners' snapshots.
    """
    names = [{"view": live_keys.view(versions)}] * len(versions)
    names += [{"name": name, "key": key.fingerprint} for name, key in partners]
    wanted = ", ".join(f"('{name}', '{key.fingerprint}')" for name, key in partners)

    def arms(padding: str) -> list[str]:
        found = [
            (_SUPPRESSIONS if "view" in known else _PARTNER).format(
                wide=f"?{2 * place + 1}",
                exact=f"?{2 * place + 2}",
                origins=_ORIGINS,
                padding=padding,
                **known,
            )
            for place, known in enumerate(names)
        ]
        if age and partners:
            found.append(_AGE.format(count=len(partners), wanted=wanted, padding=padding))
        return found

    contact = _CONTACT.format(address=f"?{2 * len(names) + 1}")
    return Statements(
        "UNION ALL".join(arms("")), "UNION ALL".join([*arms(", NULL" * (_WIDTH - 5)), contact])
    )
