"""The mail path's query of PostgreSQL: one statement, so one snapshot, for a batch of lookups."""

from collections.abc import Sequence

from smtpproxy.store.keys import Partner
from smtpproxy.store.postgres.session import WAITS
from smtpproxy.store.sql.rows import ACT_COLUMNS, CONTACT_COLUMNS, WIDENED
from smtpproxy.store.sql.session import Dialect

STATE, PAUSE, SNAPSHOTS, SUPPRESSION, OF_DOMAIN, PARTNER, PARTNER_DOMAIN, CONTACT = range(8)
"""The kind of a row, in its first column."""

_CONTACT_TYPES = (
    *("bigint", "text", "text", "text", "bigint", "bigint", "bigint"),
    *("bigint", "text", "text", "text", "bigint", "text", "text"),
)
_ACT_TYPES = ("bigint", "bigint", "text", "text", "bigint", "text", "text", "text", "text")
FIRST_CONTACT = 8
FIRST_ACT = FIRST_CONTACT + len(_CONTACT_TYPES)
_PADDING = "".join(f", NULL::{kind}" for kind in (*_CONTACT_TYPES, *_ACT_TYPES))

# The live keys are returned, as they may have changed since the values were hashed. A server that
# took over may lack the last commits, and have others of the same versions: so each has an id.
_STATE = f"""
SELECT {STATE}, {WAITS}::integer::bigint, pg_is_in_recovery(), (
    SELECT string_agg(version || ':' || fingerprint, ' ' ORDER BY version)
    FROM suppression_key WHERE retired_at IS NULL
), moved_to, version, commit_id::text, NULL::bigint"""
_FROM_STATE = " FROM store_state"
VERSION = _STATE + _FROM_STATE
"""The first row alone, for lookups without addresses, such as the final check of a message."""

_STATE_ARM = f"{_STATE}{_PADDING}{_FROM_STATE}"
_PAUSE_ARM = f"""
SELECT {PAUSE}, 0::bigint, FALSE, subject, cause, at, reason, until{_PADDING} FROM stream_pause
"""
# $1 and $2 are the wide and exact keys of addresses, $3 those of the whole domains that they are
# under: in hexadecimal, separated by spaces. For other arrays than of text, asyncpg makes four more
# queries on each new connection, and parses each array slowly. Places count from 1. The last number
# of an act is its sequence.
_SUPPRESSION_ARM = f"""
SELECT {SUPPRESSION}, place, exact_key = decode(exact, 'hex'), scope, origin, since, note,
       NULL::bigint{_PADDING}
FROM unnest(string_to_array($1, ' '), string_to_array($2, ' '))
     WITH ORDINALITY AS asked (wide, exact, place)
JOIN suppression ON wide_key = decode(wide, 'hex')
     AND (exact_key = decode(exact, 'hex') OR origin IN ({WIDENED}))
"""
_DOMAIN_ARM = f"""
SELECT {OF_DOMAIN}, place, FALSE, scope, origin, since, note, NULL::bigint{_PADDING}
FROM unnest(string_to_array($3, ' ')) WITH ORDINALITY AS asked (wide, place)
JOIN suppression ON wide_key = decode(wide, 'hex')
"""
_CONTACT_ARM = f"""
SELECT {CONTACT}, 0::bigint, FALSE, NULL::text, NULL::text, NULL::bigint, NULL::text, sequence,
       {CONTACT_COLUMNS}, {ACT_COLUMNS}
FROM contact LEFT JOIN consent_act ON consent_act.contact = contact.id
WHERE address = ANY ($4::text[])
"""
# A partner's suppression counts as `external`; its origin at the partner decides whether it counts
# for variants of the mailbox. $5 to $8 are the partners' names, their keys' fingerprints, wide and
# exact keys; $9 to $11 the same for whole domains.
_PARTNER_ARM = f"""
SELECT {PARTNER}, place, exact_key = decode(exact, 'hex'), scope, 'external'::text, since,
       'partner ' || partner || ': ' || origin, NULL::bigint{_PADDING}
FROM unnest($5::text[], $6::text[], string_to_array($7, ' '), string_to_array($8, ' '))
     WITH ORDINALITY AS asked (told_by, shared, wide, exact, place)
JOIN partner_snapshot ON partner = told_by AND key = shared
JOIN partner_entry USING (snapshot)
WHERE wide_key = decode(wide, 'hex')
AND (exact_key = decode(exact, 'hex') OR origin IN ({WIDENED}))
"""
_PARTNER_DOMAIN_ARM = f"""
SELECT {PARTNER_DOMAIN}, place, FALSE, scope, 'external'::text, since,
       'partner ' || partner || ': ' || origin, NULL::bigint{_PADDING}
FROM unnest($9::text[], $10::text[], string_to_array($11, ' '))
     WITH ORDINALITY AS asked (told_by, shared, wide, place)
JOIN partner_snapshot ON partner = told_by AND key = shared
JOIN partner_entry USING (snapshot)
WHERE wide_key = decode(wide, 'hex')
"""
_OWN = (_STATE_ARM, _PAUSE_ARM, _SUPPRESSION_ARM, _DOMAIN_ARM, _CONTACT_ARM)


def facts_query(partners: Sequence[Partner]) -> str:
    """Return the statement; rows are (kind, place, same, text, text, number, text, number), the
    columns of a contact and those of one of its acts."""
    if not partners:
        return " UNION ALL ".join(_OWN)
    wanted = ", ".join(f"('{name}', '{key.fingerprint}')" for name, key in partners)
    age = f"""
        SELECT {SNAPSHOTS}, 0::bigint, FALSE, NULL::text, NULL::text,
               CASE count(*) WHEN {len(partners)} THEN min(taken_at) END,
               NULL::text, nullif(max(taken_at), min(taken_at)){_PADDING}
        FROM partner_snapshot WHERE (partner, key) IN (VALUES {wanted})
    """
    return " UNION ALL ".join((*_OWN, _PARTNER_ARM, _PARTNER_DOMAIN_ARM, age))


_VERSIONS = "jsonb_array_elements(earlier::jsonb) WITH ORDINALITY AS version (value, place)"
_OF_EARLIER = "(value ->> 0)::bigint < ?1 AND value ->> 1"
_HAS_EARLIER = f"EXISTS (SELECT 1 FROM {_VERSIONS} WHERE {_OF_EARLIER} = ?2)"
DIALECT = Dialect(
    newest_change="SELECT newest FROM change_number",
    earlier_texts=(
        f"""
        SELECT DISTINCT value ->> 1 FROM suppression, {_VERSIONS} WHERE {_OF_EARLIER} IS NOT NULL
        """,
        f"SELECT count(*) FROM suppression WHERE {_HAS_EARLIER}",
        f"""
        UPDATE suppression SET earlier = (
            SELECT CAST(json_agg(
                CASE WHEN {_OF_EARLIER} = ?2 THEN jsonb_set(value, '{{1}}', 'null') ELSE value END
                ORDER BY place
            ) AS text) FROM {_VERSIONS}
        ) WHERE {_HAS_EARLIER}
        """,
    ),
)
