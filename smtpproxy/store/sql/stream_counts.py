"""Statements that both databases share for the counts of streams and campaigns."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from smtpproxy.mail.address import widened
from smtpproxy.policy.breaker import Feedback, Tally
from smtpproxy.policy.campaign import Campaign
from smtpproxy.store.sql.rows import Row, optional_moment, to_micros
from smtpproxy.store.sql.side_tables import keyed_hash

SENT = "sent"
FIRST = "SELECT min(at) FROM stream_count WHERE stream = ? AND kind = 'sent'"
HEARD = """
INSERT INTO heard (person, at) VALUES (?1, ?2)
ON CONFLICT (person) DO UPDATE SET at = excluded.at WHERE heard.at <= ?3
"""
"""Changes no row if a person was heard after ?3."""
SUMS = """
SELECT kind, CAST(sum(n) AS BIGINT) FROM stream_count WHERE stream = ? AND at > ? GROUP BY kind
"""
PRUNE = ("DELETE FROM stream_count WHERE at < ?", "DELETE FROM heard WHERE at < ?")

_CAMPAIGN = "key, people, strangers, dead, full_at, dead_at"
FIND_CAMPAIGN = f"SELECT {_CAMPAIGN}, seen_at FROM campaign WHERE key = ?"
CAMPAIGNS = f"""
SELECT {_CAMPAIGN} FROM campaign WHERE stream = ? AND full_at IS NOT NULL
ORDER BY full_at DESC LIMIT 100
"""
TRIED_SINCE = f"""
SELECT stream, {_CAMPAIGN} FROM campaign
WHERE people >= ?1 AND (full_at IS NULL OR full_at >= ?2 OR dead_at >= ?2)
ORDER BY coalesce(full_at, seen_at)
"""
BEGAN = "SELECT min(id) FROM campaign_person WHERE campaign = ?"
NEW_CAMPAIGN = """
INSERT INTO campaign (key, stream, people, strangers, dead, seen_at) VALUES (?, ?, 0, 0, 0, ?)
ON CONFLICT DO NOTHING
"""
SEEN_CAMPAIGN = "UPDATE campaign SET seen_at = ? WHERE key = ?"
TRIED = """
UPDATE campaign SET people = people + CAST(?2 AS BIGINT), strangers = strangers + ?3,
    full_at = CASE WHEN people + CAST(?2 AS BIGINT) >= ?4 THEN CAST(?5 AS BIGINT) END
WHERE key = ?1
"""
UNTRIED = """
UPDATE campaign SET people = people - CAST(?2 AS BIGINT),
    strangers = CASE WHEN strangers > ?3 THEN strangers - ?3 ELSE 0 END,
    full_at = CASE WHEN people - CAST(?2 AS BIGINT) >= ?4 OR strangers = 0 THEN full_at END
WHERE key = ?1
"""
"""With 0 strangers it stays full: an operator may have released the campaign."""
BOUNCED = """
UPDATE campaign_person SET dead = 1 WHERE id = ? AND person = ? AND dead = 0 RETURNING campaign
"""
DEAD = """
UPDATE campaign SET dead = dead + 1,
    dead_at = CASE WHEN dead_at IS NULL AND dead + 1 >= ?3 AND (dead + 1) * 1000000 >= ?2 * people
        THEN ?4 ELSE dead_at END
WHERE key = ?1
"""
RELEASE = """
UPDATE campaign SET strangers = 0, dead = 0, dead_at = NULL WHERE stream = ? AND full_at IS NOT NULL
"""
PRUNE_CAMPAIGNS = "DELETE FROM campaign WHERE seen_at < ?"
TRIM_CAMPAIGNS = f"""
DELETE FROM campaign WHERE key IN
    (SELECT key FROM campaign ORDER BY seen_at DESC LIMIT {2**62} OFFSET ?)
"""
FORGET_PEOPLE = "DELETE FROM campaign_person WHERE campaign NOT IN (SELECT key FROM campaign)"

MOST_CAMPAIGNS, TRIM_EVERY = 10_000, 1_000
SEEN_AGAIN = 3_600_000_000  # microseconds


def read_campaign(row: Sequence[Any]) -> Campaign:
    key, people, strangers, dead, full_at, dead_at = row
    return Campaign(
        key, people, strangers, dead, optional_moment(full_at), optional_moment(dead_at)
    )


def read_tally(rows: Iterable[Row]) -> Tally:
    found: dict[str, int] = dict(rows)
    return Tally(found.pop(SENT, 0), {Feedback(kind): n for kind, n in found.items()})


def hash_of_heard(stream: str, kind: Feedback, person: str, secret: bytes) -> bytes:
    """Hash by mailbox, so that one person with many plus-tags counts once."""
    mailbox = widened(person) if "@" in person else person
    octets = f"{stream}\0{kind}\0{mailbox}".encode()
    return keyed_hash(octets, secret)


WINDOW_PARTS = 1_000
"""Parts of a window. One that is not wholly within it, or wholly after a resume, is not counted."""


def window_part_width(window: float) -> int:
    """Return the microseconds of one part of the window."""
    return max(1, int(timedelta(seconds=window / WINDOW_PARTS) / timedelta(microseconds=1)))


def window_part(at: datetime, window: float) -> int:
    """Return the start of the part that a time is in."""
    moment = to_micros(at)
    return moment - moment % window_part_width(window)
