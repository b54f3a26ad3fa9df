"""What the mail path asks PostgreSQL: one statement for all who wait, which is one snapshot."""

from collections.abc import Sequence

from smtpproxy.store.keys import Partner
from smtpproxy.store.postgres.synchronous import WAITS
from smtpproxy.store.sql.rows import ACT_COLUMNS, CONTACT_COLUMNS, WIDENED
from smtpproxy.store.sql.session import Dialect

STATE, PAUSE, SNAPSHOTS, SUPPRESSION, OF_DOMAIN, CONTACT = range(6)
"""What a row is, in its first column."""

_CONTACT_TYPES = (
    *("bigint", "text", "text", "text", "bigint", "bigint", "bigint"),
    *("bigint", "text", "text", "text", "bigint", "text", "text"),
)
_ACT_TYPES = ("bigint", "bigint", "text", "text", "bigint", "text", "text", "text", "text")
FIRST_CONTACT = 8
FIRST_ACT = FIRST_CONTACT + len(_CONTACT_TYPES)
_PADDING = "".join(f", NULL::{kind}" for kind in (*_CONTACT_TYPES, *_ACT_TYPES))

# Of the keys that were live when the question was made, others may be by now. A server that took
# over from another may lack its last commits, and have others of the same versions: each has an id.
_STATE_ARM = f"""
SELECT {STATE}, {WAITS}::integer, pg_is_in_recovery(), (
    SELECT string_agg(version || ':' || fingerprint, ' ' ORDER BY version)
    FROM suppression_key WHERE retired_at IS NULL
), moved_to, version, commit_id::text, NULL::bigint{_PADDING} FROM store_state
"""
_PAUSE_ARM = f"""
SELECT {PAUSE}, 0, FALSE, subject, cause, at, reason, until{_PADDING} FROM stream_pause
"""
# $1 to $3 are the places, wide and exact keys of addresses; $4 and $5 the places and keys of the
# whole domains that they are under. Of an act, the last number is its sequence.
_SUPPRESSION_ARM = f"""
SELECT {SUPPRESSION}, place, exact_key = exact, scope, origin, since, note, NULL{_PADDING}
FROM unnest($1::int[], $2::bytea[], $3::bytea[]) AS asked (place, wide, exact)
JOIN suppression ON wide_key = wide AND (exact_key = exact OR origin IN ({WIDENED}))
"""
_DOMAIN_ARM = f"""
SELECT {OF_DOMAIN}, place, FALSE, scope, origin, since, note, NULL{_PADDING}
FROM unnest($4::int[], $5::bytea[]) AS asked (place, wide) JOIN suppression ON wide_key = wide
"""
_CONTACT_ARM = f"""
SELECT {CONTACT}, 0, FALSE, NULL, NULL, NULL, NULL, sequence, {CONTACT_COLUMNS}, {ACT_COLUMNS}
FROM contact LEFT JOIN consent_act ON consent_act.contact = contact.id
WHERE address = ANY ($6::text[])
"""
# What a partner told counts as `external`; whether it counts for variants of the mailbox is
# up to the origin that it has there. $7 to $11 are the partners' names, the fingerprints of their
# keys, then places, wide and exact keys; $12 to $15 the same of whole domains.
_PARTNER_ARM = f"""
SELECT {SUPPRESSION}, place, exact_key = exact, scope, 'external', since,
       'partner ' || partner || ': ' || origin, NULL{_PADDING}
FROM unnest($7::text[], $8::text[], $9::int[], $10::bytea[], $11::bytea[])
     AS asked (told_by, shared, place, wide, exact)
JOIN partner_snapshot ON partner = told_by AND key = shared
JOIN partner_entry USING (snapshot)
WHERE wide_key = wide AND (exact_key = exact OR origin IN ({WIDENED}))
"""
_PARTNER_DOMAIN_ARM = f"""
SELECT {OF_DOMAIN}, place, FALSE, scope, 'external', since,
       'partner ' || partner || ': ' || origin, NULL{_PADDING}
FROM unnest($12::text[], $13::text[], $14::int[], $15::bytea[])
     AS asked (told_by, shared, place, wide)
JOIN partner_snapshot ON partner = told_by AND key = shared
JOIN partner_entry USING (snapshot)
WHERE wide_key = wide
"""
_OWN = (_STATE_ARM, _PAUSE_ARM, _SUPPRESSION_ARM, _DOMAIN_ARM, _CONTACT_ARM)


def question(partners: Sequence[Partner]) -> str:
    """Return the statement; rows are (what, place, same, text, text, number, text, number), the
    columns of a contact and those of one of its acts."""
    if not partners:
        return " UNION ALL ".join(_OWN)
    wanted = ", ".join(f"('{name}', '{key.fingerprint}')" for name, key in partners)
    age = f"""
        SELECT {SNAPSHOTS}, 0, FALSE, NULL, NULL,
               CASE count(*) WHEN {len(partners)} THEN min(taken_at) END, NULL, NULL{_PADDING}
        FROM partner_snapshot WHERE (partner, key) IN (VALUES {wanted})
    """
    return " UNION ALL ".join((*_OWN, _PARTNER_ARM, _PARTNER_DOMAIN_ARM, age))


_VERSIONS = "jsonb_array_elements(earlier::jsonb) WITH ORDINALITY AS version (value, place)"
_OF_EARLIER = "(value ->> 0)::bigint < ?1 AND value ->> 1"
_HAS_EARLIER = f"EXISTS (SELECT 1 FROM {_VERSIONS} WHERE {_OF_EARLIER} = ?2)"
DIALECT = Dialect(
    newest_change="SELECT newest FROM change_number",
    kept="""
        DROP TABLE IF EXISTS pg_temp.kept;
        CREATE TEMP TABLE kept (wide_key bytea, exact_key bytea, scope text, origin text,
                                PRIMARY KEY (wide_key, exact_key, scope, origin))
    """,
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
