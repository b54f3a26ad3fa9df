"""The tables of the files beside the store's, by part.

Times are microseconds since 1970 in UTC; people and requests are keyed hashes.
"""

from collections.abc import Mapping

SIDE_TABLES: Mapping[str, str] = {
    # `request` is a hash of the client's token and the idempotency key.
    "answers": """
CREATE TABLE answer (
    request BLOB PRIMARY KEY,
    asked BLOB NOT NULL,     -- keyed hash of what was asked
    at INTEGER NOT NULL,     -- microseconds since 1970
    body BLOB,               -- NULL: it is being done
    version TEXT             -- for its ETag
) WITHOUT ROWID;
CREATE INDEX answer_at ON answer (at);
""",
    # A text is the hash of its masked form.
    "bulk": """
CREATE TABLE bulk (
    fingerprint BLOB NOT NULL,
    person BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, person)
) WITHOUT ROWID;
CREATE INDEX bulk_at ON bulk (at);
""",
    # A person is the hash of the widened address.
    "confirmations": """
CREATE TABLE confirmation (
    person BLOB NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX confirmation_person ON confirmation (person);
""",
    "copies": """
CREATE TABLE copy (
    message BLOB NOT NULL,   -- keyed hash of reverse path and content
    recipient BLOB NOT NULL, -- keyed hash of the forward path
    at INTEGER NOT NULL,     -- microseconds since 1970
    PRIMARY KEY (message, recipient)
) WITHOUT ROWID;
CREATE INDEX copy_at ON copy (at);
""",
    # A person is the hash of the canonical address.
    "feedback": """
CREATE TABLE report (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    why TEXT NOT NULL,       -- empty, but of what is kept: it may quote the report
    kept INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX report_at ON report (at);
CREATE INDEX report_kept ON report (at) WHERE kept;
CREATE TABLE concerned (
    person BLOB NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (person, report)
) WITHOUT ROWID;
CREATE INDEX concerned_report ON concerned (report);
CREATE TABLE event (
    key BLOB PRIMARY KEY,
    at INTEGER NOT NULL      -- what lasts is dated later, so that it stays for longer
) WITHOUT ROWID;
CREATE INDEX event_at ON event (at);
CREATE TABLE mailbox_full (
    person BLOB NOT NULL,
    key BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (person, key)
) WITHOUT ROWID;
CREATE TABLE hand_on (
    key BLOB PRIMARY KEY,
    report TEXT NOT NULL,
    decision TEXT NOT NULL,
    since INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    due INTEGER              -- NULL: it is done
) WITHOUT ROWID;
CREATE INDEX hand_on_due ON hand_on (due) WHERE due IS NOT NULL;
CREATE TABLE total (
    kind TEXT NOT NULL,
    stream TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (kind, stream)
) WITHOUT ROWID;
""",
    # A person is the hash of the canonical address.
    "mailings": """
CREATE TABLE mailing (
    person BLOB NOT NULL,
    at INTEGER NOT NULL,
    id TEXT NOT NULL,      -- of the decision
    stream TEXT NOT NULL,
    purpose TEXT,
    brand TEXT NOT NULL,
    PRIMARY KEY (person, at, id)
) WITHOUT ROWID;
CREATE TABLE first_mailing (
    person BLOB PRIMARY KEY,
    at INTEGER NOT NULL,
    id TEXT NOT NULL
) WITHOUT ROWID;
""",
    # `kind` is "sent", or one of `Feedback`; `at` is the beginning of the part of the window that
    # the messages were sent in. In `heard`, a person is the hash of stream, kind and mailbox.
    "streams": """
CREATE TABLE stream_count (
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, at)
) WITHOUT ROWID;
CREATE INDEX stream_count_at ON stream_count (at);
CREATE TABLE heard (
    person BLOB PRIMARY KEY,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX heard_at ON heard (at);
CREATE TABLE campaign (
    key TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    people INTEGER NOT NULL,
    strangers INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    full_at INTEGER,
    dead_at INTEGER,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE campaign_person (
    campaign TEXT NOT NULL,
    person BLOB NOT NULL,
    id TEXT NOT NULL,      -- of the decision
    dead INTEGER NOT NULL,
    PRIMARY KEY (campaign, person)
) WITHOUT ROWID;
CREATE INDEX campaign_person_id ON campaign_person (id);
""",
}
