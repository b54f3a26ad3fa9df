"""The mail path's query of PostgreSQL: one statement, so one snapshot, for a batch of lookups."""

from collections.abc import Sequence

from smtpproxy.store.keys import Partner
from smtpproxy.store.postgres.session import WAITS
from smtpproxy.store.sql.rows import ACT_COLUMNS, CONTACT_COLUMNS, WIDENED
from smtpproxy.store.sql.session import Dialect

STATE, PAUSE, SNAPSHOTS, SUPPRESSION, OF_DOMAIN, CONTACT = range(6)
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
# OFFSET 0 makes the planner look rows up by their keys. A plan made while a table was empty would
# otherwise read all of it for each lookup. The last number of an act is its sequence.
_CONTACT_ARM = f"""
SELECT {CONTACT}, 0::bigint, FALSE, NULL::text, NULL::text, NULL::bigint, NULL::text, sequence,
       {CONTACT_COLUMNS}, {ACT_COLUMNS}
FROM unnest($1::text[]) AS asked (name),
     LATERAL (SELECT * FROM contact WHERE address = name OFFSET 0) AS person
LEFT JOIN LATERAL (SELECT * FROM consent_act WHERE contact = person.id OFFSET 0) AS act ON TRUE
"""
# {wide} and {exact} are the keys of addresses, {over} those of the whole domains that they are
# under: in hexadecimal, separated by spaces. For other arrays than of text, asyncpg makes four more
# queries on each new connection, and parses each array slowly. Places count from 1.
_FOUND = """
LATERAL (SELECT * FROM {table} WHERE {condition} AND wide_key = decode(wide, 'hex') OFFSET 0) AS one
"""
_OF_ADDRESS = f"""
SELECT {SUPPRESSION}, place, exact_key = decode(exact, 'hex'), scope, {{columns}},
       NULL::bigint{_PADDING}
FROM unnest(string_to_array(${{wide}}, ' '), string_to_array(${{exact}}, ' '))
     WITH ORDINALITY AS asked (wide, exact, place), {_FOUND}
WHERE exact_key = decode(exact, 'hex') OR origin IN ({WIDENED})
"""
_OF_DOMAIN = f"""
SELECT {OF_DOMAIN}, place, FALSE, scope, {{columns}}, NULL::bigint{_PADDING}
FROM unnest(string_to_array(${{over}}, ' ')) WITH ORDINALITY AS asked (wide, place), {_FOUND}
"""


def facts_query(partners: Sequence[Partner]) -> str:
    """Return the statement; rows are (kind, place, same, text, text, number, text, number), the
    columns of a contact and those of one of its acts.

    $1 are the addresses of the contacts. For our own suppressions, and then for each partner's,
    three values follow: {wide}, {exact} and {over}.
    """
    arms = [_STATE_ARM, _PAUSE_ARM, _CONTACT_ARM]
    for number, source in enumerate(_sources(partners)):
        values = {name: 2 + 3 * number + n for n, name in enumerate(("wide", "exact", "over"))}
        arms += [arm.format(**source, **values) for arm in (_OF_ADDRESS, _OF_DOMAIN)]
    if partners:
        wanted = ", ".join(f"('{name}', '{key.fingerprint}')" for name, key in partners)
        arms.append(f"""
            SELECT {SNAPSHOTS}, 0::bigint, FALSE, NULL::text, NULL::text,
                   CASE count(*) WHEN {len(partners)} THEN min(taken_at) END,
                   NULL::text, nullif(max(taken_at), min(taken_at)){_PADDING}
            FROM partner_snapshot WHERE (partner, key) IN (VALUES {wanted})
        """)
    return " UNION ALL ".join(arms)


def _sources(partners: Sequence[Partner]) -> list[dict[str, str]]:
    """Return where to look under our own keys, and under each partner's.

    A partner's suppression counts as `external`; its origin at the partner decides whether it
    counts for variants of the mailbox.
    """
    own = {"table": "suppression", "condition": "TRUE", "columns": "origin, since, note"}
    return [own] + [
        {
            "table": "partner_entry",
            "condition": f"""snapshot = (
                SELECT snapshot FROM partner_snapshot
                WHERE partner = '{name}' AND key = '{key.fingerprint}'
            )""",
            "columns": f"'external'::text, since, 'partner {name}: ' || origin",
        }
        for name, key in partners
    ]


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
