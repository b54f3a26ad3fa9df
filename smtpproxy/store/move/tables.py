"""What is copied when a store moves: every table that both kinds of database have."""

from collections.abc import Collection, Mapping
from hashlib import blake2b

import msgspec

from smtpproxy.store.sql.rows import Row

Key = tuple[object, ...]

MAIN: Mapping[str, tuple[str, ...]] = {
    "suppression_key": ("version",),
    "suppression": ("wide_key", "exact_key", "scope", "origin"),
    "lifted_suppression": ("id",),
    "contact": ("id",),
    "consent_act": ("contact", "at", "withdrawal", "sequence"),
    "rectification": ("id",),
    "tally": ("kind", "origin"),
    "import": ("number",),
    "contact_version": ("contact", "number"),
    "suppression_change": ("seq",),
    "event_source": ("name",),
    "webhook_state": ("name",),
    "webhook_dead_letter": ("id",),
    "partner_hash": ("exact_key", "key"),
    "partner_snapshot": ("partner",),
    "partner_entry": ("snapshot", "wide_key", "exact_key", "scope", "origin"),
    "stream_pause": ("subject",),
    "stream_event": ("id",),
    "link_key": ("version",),
    "consent_purpose": ("purpose",),
}
"""Those of the store, with the columns that tell a row from others."""

BESIDE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "answers": {"answer": ("request",)},
    "bulk": {"bulk": ("fingerprint", "person")},
    "confirmations": {"confirmation": ("person", "at")},  # the only one whose rows may be the same
    "copies": {"copy": ("message", "recipient")},
    "feedback": {
        "report": ("id",),
        "concerned": ("person", "report"),
        "event": ("key",),
        "mailbox_full": ("person", "key"),
        "hand_on": ("key",),
        "total": ("kind", "stream"),
    },
    "mailings": {"mailing": ("person", "at", "id"), "first_mailing": ("person",)},
    "streams": {
        "stream_count": ("stream", "kind", "at"),
        "heard": ("person",),
        "campaign": ("key",),
        "campaign_person": ("campaign", "person"),
    },
}
"""Those of each part that has a file of its own where the store is in SQLite."""

STORE = ""
"""Among the parts: the store itself."""

PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {STORE: MAIN, **BESIDE}
KEYS = {table: key for tables in PARTS.values() for table, key in tables.items()}
TABLES = tuple(KEYS)

UNIQUE = {"contact": "address", "import": "id", "suppression_change": "event_key"}
"""What else only one row of a table may have."""

NOT_COPIED = frozenset(
    {
        "secret",  # one for each part goes with it, otherwise
        "relay",  # each tells again, and where the store is a file there is one
        "refusal_change",  # of SQLite: what has yet to be written to the journal of changes
        "change_number",  # of PostgreSQL, as the next two: goes with the numbers
        "store_state",
        "schema_version",
        "journal",  # of PostgreSQL: each relay fills them from its journals
        "journal_erasure",
        "decision",
        "asked_message",  # asked again
    }
)

MADE_WITH_A_STORE = frozenset({"suppression_key", "tally"})
"""Have rows where nobody has written yet."""

NUMBERED = {
    "import": "number",
    "lifted_suppression": "id",
    "rectification": "id",
    "suppression_change": "seq",
    "stream_event": "id",
    "webhook_dead_letter": "id",
}
"""Whose rows have numbers that are given once: the newest is copied too."""

OF_RELAYS = frozenset({"mailbox", "erased"})
"""Columns of PostgreSQL that tell relays of one store apart: in SQLite there is one."""

_encode = msgspec.msgpack.Encoder().encode


class Sum:
    """How many rows there are, and a checksum of them in any order: the sum of their hashes."""

    __slots__ = ("_total", "rows")

    def __init__(self, rows: Collection[Row] = ()) -> None:
        self.rows = 0
        self._total = 0
        self.add(rows)

    def add(self, rows: Collection[Row]) -> None:
        self.rows += len(rows)
        self._total = (self._total + _hashes(rows)) % (1 << 128)

    def take_away(self, rows: Collection[Row]) -> None:
        self.rows -= len(rows)
        self._total = (self._total - _hashes(rows)) % (1 << 128)

    def __str__(self) -> str:
        return f"{self._total:032x}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.rows, str(self)) == (other.rows, str(other))

    __hash__ = None  # type: ignore[assignment]  # it changes


def _hashes(rows: Collection[Row]) -> int:
    return sum(
        int.from_bytes(blake2b(_encode(row), digest_size=16).digest(), "big") for row in rows
    )
