"""The mail path's query of SQLite about an address: one statement, and so one snapshot."""

from collections.abc import Sequence
from typing import NamedTuple

from smtpproxy.store.keys import Partner
from smtpproxy.store.sql.rows import ACT_COLUMNS, CONTACT_COLUMNS, WIDENED
from smtpproxy.store.sql.session import Dialect
from smtpproxy.store.sqlite import live_keys

_APART = 6

# {wide} and {exact} are the parameters with the address's keys. {over} is the condition for the
# whole domains that it is under; the wide key that matched identifies the domain. With many
# addresses {asked} lists them, and {place} is the place of each in the list.
_OF_ADDRESS = """
SELECT {place}exact_key = {exact}, json_array(scope, {columns}), NULL FROM {asked}{table}
WHERE {condition}wide_key = {wide} AND (exact_key = {exact} OR origin IN ({origins}))
"""
_OF_DOMAIN = """
SELECT {place}wide_key, json_array(scope, {columns}), NULL FROM {asked}{table}
WHERE {condition}{over}
"""
_SNAPSHOT_AGE = """
SELECT 2, json_array(CASE count(*) WHEN {count} THEN min(taken_at) END,
    nullif(max(taken_at), min(taken_at))), NULL
FROM partner_snapshot WHERE (partner, key) IN (VALUES {wanted})
"""
# For sqlite3 a column, even if NULL, costs more than a value of a JSON array.
_CONTACT_COLUMNS = f"contact.{CONTACT_COLUMNS}"  # the first is `id`, which json_each has too
_CONTACT = f"""
SELECT {{place}}NULL, json_array({_CONTACT_COLUMNS}),
    CASE WHEN at IS NOT NULL THEN json_array({ACT_COLUMNS}) END
FROM {{asked}}contact LEFT JOIN consent_act ON consent_act.contact = contact.id
WHERE address = {{address}}
"""


class Statements(NamedTuple):
    """The statements; their values are those of each `SuppressionKey.lookup`, and for `everything`
    also the address."""

    suppressions: str
    everything: str


def statements(
    versions: Sequence[int], partners: Sequence[Partner] = (), *, domains: int, age: bool = False
) -> Statements:
    """Return the statements for these live keys, and an address under that many whole `domains`.

    One statement is one snapshot and takes the read lock once. The first column is NULL for the
    contact, with one of its acts in the last column of each row; 2 for the age of the partners'
    snapshots; and the wide key for a whole domain. The others are arrays in JSON.
    """
    width = 2 + domains
    sources = _sources(versions, partners)
    arms = []
    for place, source in enumerate(sources):
        first = width * place + 1
        one = {"place": "", "asked": "", "origins": WIDENED, **source}
        arms.append(_OF_ADDRESS.format(wide=f"?{first}", exact=f"?{first + 1}", **one))
        places = [f"?{first + 2 + n}" for n in range(domains)]
        arms += [_OF_DOMAIN.format(over=over, **one) for over in _wanted(places)]
    if age and partners:
        wanted = ", ".join(f"('{name}', '{key.fingerprint}')" for name, key in partners)
        arms.append(_SNAPSHOT_AGE.format(count=len(partners), wanted=wanted))
    contact = _CONTACT.format(address=f"?{width * len(sources) + 1}", place="", asked="")
    return Statements("UNION ALL".join(arms), "UNION ALL".join([*arms, contact]))


def statements_for_many(versions: Sequence[int], partners: Sequence[Partner] = ()) -> Statements:
    """Return the statements that read many addresses.

    Their first values are two lists in JSON: the addresses, and another one as long as there are
    whole domains over them. Then for each live key and partner: the wide and exact keys of all
    addresses, put together, and the wide keys of all domains. The first column is the place of the
    address or the domain; the others are those of `statements`.
    """
    arms = []
    for number, source in enumerate(_sources(versions, partners)):
        people, domains = 2 * number + 3, 2 * number + 4
        keys = {
            "wide": f"substr(?{people}, asked.key * 48 + 1, 16)",
            "exact": f"substr(?{people}, asked.key * 48 + 17, 32)",
            "over": f"wide_key = substr(?{domains}, asked.key * 16 + 1, 16)",
        }
        arms.append(_OF_ADDRESS.format(origins=WIDENED, **_ASKED, **keys, **source))
        arms.append(_OF_DOMAIN.format(**_ASKED_DOMAINS, **keys, **source))
    contact = _CONTACT.format(address="asked.value", **_ASKED)
    return Statements("UNION ALL".join(arms), "UNION ALL".join([*arms, contact]))


_ASKED = {"place": "asked.key, ", "asked": "json_each(?1) AS asked CROSS JOIN "}
_ASKED_DOMAINS = {"place": "asked.key, ", "asked": "json_each(?2) AS asked CROSS JOIN "}


def _sources(versions: Sequence[int], partners: Sequence[Partner]) -> list[dict[str, str]]:
    """Return where to look under each live key, and under each partner's.

    A partner's suppression counts as `external`; its origin at the partner decides whether it
    counts for variants of the mailbox.
    """
    own = {"table": live_keys.view(versions), "condition": "", "columns": "origin, since, note"}
    return [own] * len(versions) + [
        {
            "table": "partner_snapshot CROSS JOIN partner_entry USING (snapshot)",
            "condition": f"partner = '{name}' AND partner_snapshot.key = '{key.fingerprint}' AND ",
            "columns": f"'external', since, 'partner {name}: ' || origin",
        }
        for name, key in partners
    ]


def _wanted(places: Sequence[str]) -> list[str]:
    """Return the conditions on wide keys: one SELECT for each, which is fastest, or else one IN.

    SQLite allows 500 SELECTs in one statement, and a domain may have 127 labels.
    """
    if len(places) > _APART:
        return [f"wide_key IN ({', '.join(places)})"]
    return [f"wide_key = {place}" for place in places]


_OF_EARLIER = "json_extract(value, '$[0]') < ?1 AND json_extract(value, '$[1]')"
_HAS_EARLIER = f"EXISTS (SELECT 1 FROM json_each(earlier) WHERE {_OF_EARLIER} = ?2)"
DIALECT = Dialect(
    newest_change="""
        SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'suppression_change'
    """,
    earlier_texts=(
        f"""
        SELECT DISTINCT json_extract(value, '$[1]') FROM suppression, json_each(earlier)
        WHERE {_OF_EARLIER} IS NOT NULL
        """,
        f"SELECT count(*) FROM suppression WHERE {_HAS_EARLIER}",
        f"""
        UPDATE suppression SET earlier = (
            SELECT json_group_array(json(
                iif({_OF_EARLIER} = ?2, json_set(value, '$[1]', NULL), value)
            )) FROM json_each(earlier)
        ) WHERE {_HAS_EARLIER}
        """,
    ),
)
