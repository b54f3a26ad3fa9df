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

-- How far each webhook is. The courier writes it; `woken` is for people who want a retry.
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

-- Since when a key is live; NULL: since the database was made.
ALTER TABLE suppression_key ADD COLUMN made_at INTEGER;
