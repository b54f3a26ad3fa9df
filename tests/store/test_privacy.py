"""What the files reveal of people: no address of a suppression, and nothing after an erasure."""

import hmac
import sqlite3
from contextlib import closing

import pytest

from smtpproxy.policy.model import Origin, Stream
from smtpproxy.store import open_feedback, open_mailings, open_stream_counts
from smtpproxy.store.feedback import ReadReport
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.keys import SuppressionKey
from smtpproxy.store.sql.side_tables import person_hash
from tests.store.conftest import Database
from tests.store.contract import ANNA, T0, WHOLE, entry


def contents(database: Database) -> bytes:
    """Everything on the disk: the database, its log and its index."""
    return b"".join(path.read_bytes() for path in database.folder.glob("store.db*"))


def beside(database: Database) -> bytes:
    """The same of the files beside it."""
    return b"".join(path.read_bytes() for path in database.folder.glob("store-*.db*"))


async def test_suppressions_do_not_contain_their_address(database: Database) -> None:
    store = database.open()
    await store.add_suppressions([entry("Anna+Shop@people.example", note="by phone")])
    await store.remove_suppression("anna+shop@people.example", at=T0, reason="she asked")
    await store.add_suppressions([entry("anna+shop@people.example", origin=Origin.BOUNCE)])
    found = contents(database).lower()
    assert b"by phone" in found
    assert b"anna" not in found
    assert b"people.example" not in found


async def test_keys_are_hmac_sha256_under_the_secret(database: Database) -> None:
    await database.open().add_suppressions([entry("Anna+Shop@people.example")])
    secret = bytes.fromhex(database.key_path.read_text().split()[-1])
    with closing(sqlite3.connect(database.path)) as connection:
        wide, exact, version = connection.execute(
            "SELECT wide_key, exact_key, key_version FROM suppression"
        ).fetchone()
    assert exact == hmac.digest(secret, b"anna+shop@people.example", "sha256")
    assert wide == hmac.digest(secret, ANNA.encode(), "sha256")[:16]
    assert version == 1


def test_a_key_does_not_reveal_its_secret(database: Database) -> None:
    database.open()
    secret = database.key_path.read_text().split()[-1]
    key = load_keys(database.folder).newest
    assert secret not in repr(key)
    assert secret[:8] != key.fingerprint


@pytest.mark.parametrize("length", [1, 32, 64])
def test_secrets_of_any_length_up_to_a_block_are_hmac(length: int) -> None:
    secret = bytes(range(length))
    exact = SuppressionKey(secret).pair(ANNA)[1]
    assert exact == hmac.digest(secret, ANNA.encode(), "sha256")


async def test_an_erasure_leaves_nothing_on_the_disk(database: Database) -> None:
    store = database.open()
    await store.put_contacts([WHOLE])
    assert ANNA.encode() in contents(database)
    await store.erase_contact(ANNA, at=T0)
    found = contents(database)
    for trace in (ANNA, "anna", "form v3", "192.0.2.7", "boots"):
        assert trace.encode() not in found


async def test_an_erasure_leaves_no_hash_that_leads_to_a_decision(database: Database) -> None:
    """Whoever has the files cannot tell which lines of the audit log were about the person."""
    settings = database.settings()
    mailings, counts = open_mailings(settings), open_stream_counts(settings)
    reports = open_feedback(settings, "")
    for part in (mailings, counts, reports):
        database.part(part)
    await mailings.reserve("01A", Stream("offers", purpose="offers"), [ANNA], T0)
    await counts.count_campaign("offers", "spring", "01A", {ANNA: True}, T0, 10)
    await reports.note([ReadReport("r", T0, "dsn", "", people=(ANNA,))])
    traces = []
    for part_name in ("mailings", "streams", "feedback"):
        with closing(sqlite3.connect(database.folder / f"store-{part_name}.db")) as connection:
            (secret,) = connection.execute("SELECT octets FROM secret").fetchone()
        traces.append(person_hash(ANNA, secret))
    assert [trace in beside(database) for trace in traces] == [True] * 3
    await database.open().erase_contact(ANNA, at=T0)
    await reports.forget(ANNA)
    assert [trace in beside(database) for trace in traces] == [False] * 3


async def test_lifted_suppressions_stay_on_record(database: Database) -> None:
    store = database.open()
    await store.add_suppressions([entry(note="by phone")])
    await store.remove_suppression(ANNA, at=T0, reason="she asked by letter")
    with closing(sqlite3.connect(database.path)) as connection:
        found = connection.execute(
            "SELECT exact_key, scope, origin, note, reason FROM lifted_suppression"
        ).fetchall()
    exact = load_keys(database.folder).newest.pair(ANNA)[1]
    assert found == [(exact, "marketing", "unsubscribe", "by phone", "she asked by letter")]


async def test_acts_cannot_be_rewritten(database: Database) -> None:
    await database.open().put_contacts([WHOLE])
    with (
        closing(sqlite3.connect(database.path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="history"),
    ):
        connection.execute("UPDATE consent_act SET withdrawal = 0")
