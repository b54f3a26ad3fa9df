"""What is copied when a store moves: every table that both kinds of database have."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

from smtpproxy.store.sql.rows import Row

MAIN = (
    "suppression_key",
    "suppression",
    "lifted_suppression",
    "contact",
    "consent_act",
    "rectification",
    "tally",
    "import",
    "contact_version",
    "suppression_change",
    "event_source",
    "webhook_state",
    "webhook_dead_letter",
    "partner_hash",
    "partner_snapshot",
    "partner_entry",
    "stream_pause",
    "stream_event",
    "link_key",
    "consent_purpose",
)
"""Those of the store, each after the ones that its rows refer to."""

BESIDE: Mapping[str, tuple[str, ...]] = {
    "answers": ("answer",),
    "bulk": ("bulk",),
    "confirmations": ("confirmation",),
    "copies": ("copy",),
    "feedback": ("report", "concerned", "event", "mailbox_full", "hand_on", "total"),
    "mailings": ("mailing", "first_mailing"),
    "streams": ("stream_count", "heard", "campaign", "campaign_person"),
}
"""Those of each part that has a file of its own where the store is in SQLite."""

TABLES = (*MAIN, *(table for tables in BESIDE.values() for table in tables))

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

    def __init__(self) -> None:
        self.rows = 0
        self._total = 0

    def add(self, rows: Iterable[Row]) -> None:
        hashes = [
            int.from_bytes(blake2b(_encode(row), digest_size=16).digest(), "big") for row in rows
        ]
        self.rows += len(hashes)
        self._total = (self._total + sum(hashes)) % (1 << 128)

    def __str__(self) -> str:
        return f"{self._total:032x}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.rows, str(self)) == (other.rows, str(other))

    __hash__ = None  # type: ignore[assignment]  # it changes
