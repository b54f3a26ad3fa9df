"""The tables that are copied when a store moves: all those that both kinds of database have."""

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
"""The tables of the store itself, with the columns that identify a row."""

BESIDE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "answers": {"answer": ("request",)},
    "bulk": {"bulk": ("fingerprint", "person")},
    "confirmations": {"confirmation": ("person", "at")},  # the only one with duplicate rows
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
"""The tables of each part that has its own file in SQLite."""

STORE = ""
"""The part that is the store itself."""

PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {STORE: MAIN, **BESIDE}
KEYS = {table: key for tables in PARTS.values() for table, key in tables.items()}
TABLES = tuple(KEYS)

UNIQUE = {"contact": "address", "import": "id", "suppression_change": "event_key"}
"""Columns that are unique in addition to the key."""

MADE_WITH_A_STORE = frozenset({"suppression_key", "link_key", "tally"})
"""Tables that have rows in a new store: `smtpproxy migrate` makes the keys, also those of links."""

NUMBERED = {
    "import": "number",
    "lifted_suppression": "id",
    "rectification": "id",
    "suppression_change": "seq",
    "stream_event": "id",
    "webhook_dead_letter": "id",
}
"""Tables whose numbers are never assigned twice; the highest is copied too."""

OF_RELAYS = frozenset({"mailbox", "erased"})
"""Columns that PostgreSQL alone has, as several relays can share it."""

_encode = msgspec.msgpack.Encoder().encode


class Sum:
    """The number of rows, and a checksum that ignores their order: the sum of their hashes."""

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
