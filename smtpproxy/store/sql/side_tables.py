"""Statements that both databases share for the tables beside contacts and suppressions.

These tables hold people and requests as keyed hashes.
"""

from hashlib import blake2b

from smtpproxy.mail.address import widened

PRUNE_ANSWERS = "DELETE FROM answer WHERE at < ? OR (body IS NULL AND at < ?)"
FIND_ANSWER = "SELECT asked, body, version FROM answer WHERE request = ?"
FINISH_ANSWER = "UPDATE answer SET body = ?, version = ? WHERE request = ?"
FORGET_ANSWER = "DELETE FROM answer WHERE request = ? AND body IS NULL"

PRUNE_CONFIRMATIONS = "DELETE FROM confirmation WHERE at <= ?"
COUNT_CONFIRMATION = "INSERT INTO confirmation (person, at) VALUES (?, ?)"
GIVE_CONFIRMATION_BACK = "DELETE FROM confirmation WHERE person = ? AND at = ?"

OLDER_MAILINGS = "SELECT count(*) FROM mailing WHERE at < ?"
PRUNE_MAILINGS = """
DELETE FROM mailing WHERE (person, at, id) IN
    (SELECT person, at, id FROM mailing WHERE at < ? LIMIT ?)
"""
PRUNE_FIRST_MAILINGS = """
DELETE FROM first_mailing WHERE person IN
    (SELECT person FROM first_mailing WHERE at < ? LIMIT ?)
"""
FORGET_MAILINGS = (
    "DELETE FROM mailing WHERE person = ?",
    "DELETE FROM first_mailing WHERE person = ?",
)
MAILINGS_PRUNED_AT_ONCE = 5_000  # rows in one transaction, while other writers wait

ANY_COPY = "SELECT EXISTS (SELECT 1 FROM copy)"

HANDED_ON = "UPDATE hand_on SET due = NULL WHERE key = ?"
HAND_ON_LATER = "UPDATE hand_on SET due = ?, tries = tries + 1 WHERE key = ?"
HOW_FULL = "SELECT count(*) FROM mailbox_full WHERE person = ? AND at > ?"
REPORTS_OF_PERSON = "SELECT report FROM concerned WHERE person = ?"
PURGE_HEARD = (
    "DELETE FROM event WHERE at < ?",
    "DELETE FROM mailbox_full WHERE at < ?",
    "DELETE FROM hand_on WHERE since < ? AND due IS NULL",
)


def keyed_hash(octets: bytes, secret: bytes) -> bytes:
    return blake2b(octets, digest_size=16, key=secret).digest()


def person_hash(address: str, secret: bytes) -> bytes:
    """Hash a canonical address."""
    return keyed_hash(address.encode(), secret)


def mailbox_hash(address: str, secret: bytes) -> bytes:
    """Hash the mailbox of an address, which is the same with any plus-tag."""
    return keyed_hash(widened(address).encode(), secret)


def reader_hash(address: str, secret: bytes) -> bytes:
    """Hash a person who was sent a text: shorter, as there are many, and only counted."""
    return blake2b(address.encode(), digest_size=8, key=secret).digest()


def path_octets(path: str) -> bytes:
    """Encode an SMTP path as it came."""
    return path.encode("utf-8", "surrogateescape")
