-- What others are told of suppressions, and what they tell us.

-- webhooks

-- What changed, in order, for everybody else who must stop too. Triggers write it, so that
-- no way of adding or lifting can forget to. A suppression that merely goes (purged, or put
-- under another key) is no order to mail again: only what is put on record as lifted is.
-- The number of a row is never used again, so a reader can tell what it has not seen.
CREATE TABLE suppression_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    action TEXT NOT NULL,  -- added, moved, lifted
    wide_key BLOB NOT NULL,
    exact_key BLOB NOT NULL,
    scope TEXT NOT NULL,
    origin TEXT NOT NULL,
    since INTEGER NOT NULL,
    key_version INTEGER NOT NULL
);

-- Of a database that was there before, the first changes are missing: number 1 is taken.
INSERT INTO sqlite_sequence (name, seq)
SELECT 'suppression_change', 1 WHERE EXISTS (SELECT 1 FROM suppression);

CREATE TRIGGER suppression_change_added AFTER INSERT ON suppression BEGIN
    INSERT INTO suppression_change
        (at, action, wide_key, exact_key, scope, origin, since, key_version)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000, 'added',
            NEW.wide_key, NEW.exact_key, NEW.scope, NEW.origin, NEW.since, NEW.key_version);
END;

CREATE TRIGGER suppression_change_moved AFTER UPDATE OF since ON suppression
WHEN NEW.since > OLD.since BEGIN
    INSERT INTO suppression_change
        (at, action, wide_key, exact_key, scope, origin, since, key_version)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000, 'moved',
            NEW.wide_key, NEW.exact_key, NEW.scope, NEW.origin, NEW.since, NEW.key_version);
END;

CREATE TRIGGER suppression_change_lifted AFTER INSERT ON lifted_suppression BEGIN
    INSERT INTO suppression_change
        (at, action, wide_key, exact_key, scope, origin, since, key_version)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000, 'lifted',
            NEW.wide_key, NEW.exact_key, NEW.scope, NEW.origin, NEW.since, NEW.key_version);
END;

-- How far each webhook is. The process of webhooks writes it; `woken` is for people who want a retry.
CREATE TABLE webhook_state (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,  -- nothing up to this change has to be sent any more
    message_id TEXT,            -- what is being delivered, the same at every try
    message_end INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,  -- in a row
    failing_since INTEGER,
    retry_at INTEGER,
    disabled_at INTEGER,
    last_error TEXT,
    delivered_at INTEGER,
    woken INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Messages that could not be delivered in time. They stay until somebody decides.
CREATE TABLE webhook_dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook TEXT NOT NULL,
    message_id TEXT NOT NULL,
    body BLOB NOT NULL,
    changes INTEGER NOT NULL,
    oldest_at INTEGER NOT NULL,  -- of the changes in it
    died_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    retry INTEGER NOT NULL DEFAULT 0
);

-- keys

-- Since when a key is live (NULL: since the database was made), and until when it was.
ALTER TABLE suppression_key ADD COLUMN made_at INTEGER;
ALTER TABLE suppression_key ADD COLUMN retired_at INTEGER;

CREATE INDEX lifted_suppression_key ON lifted_suppression (exact_key);

-- partners

-- What we tell: the keys of a suppressed address under the key shared with a partner. They
-- can be made only while the address is known.
CREATE TABLE partner_hash (
    exact_key BLOB NOT NULL,      -- of the suppression, under our own key
    key TEXT NOT NULL,            -- the fingerprint of the partner's
    partner_wide BLOB NOT NULL,
    partner_exact BLOB NOT NULL,
    PRIMARY KEY (exact_key, key)
) WITHOUT ROWID;

CREATE TRIGGER partner_hash_goes_too AFTER DELETE ON suppression
WHEN NOT EXISTS (SELECT 1 FROM suppression
                 WHERE wide_key = OLD.wide_key AND exact_key = OLD.exact_key) BEGIN
    DELETE FROM partner_hash WHERE exact_key = OLD.exact_key;
END;

-- What we were told: the newest snapshot of each partner. Rows of another number are of one
-- that is being taken in, or on its way out.
CREATE TABLE partner_snapshot (
    partner TEXT PRIMARY KEY,
    key TEXT NOT NULL,            -- the fingerprint that its rows are hashed under
    snapshot INTEGER NOT NULL,
    sender TEXT NOT NULL,
    taken_at INTEGER NOT NULL,
    imported_at INTEGER NOT NULL,
    count INTEGER NOT NULL,
    digest TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE partner_entry (
    snapshot INTEGER NOT NULL,
    wide_key BLOB NOT NULL,
    exact_key BLOB NOT NULL,
    scope TEXT NOT NULL,
    origin TEXT NOT NULL,         -- at the partner's
    since INTEGER NOT NULL,
    PRIMARY KEY (snapshot, wide_key, exact_key, scope, origin)
) WITHOUT ROWID;
