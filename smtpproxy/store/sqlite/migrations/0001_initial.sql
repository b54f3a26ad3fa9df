-- Times are microseconds since 1970 in UTC; lists are JSON, NULL when empty.

-- The fingerprint of each key that suppressions are stored under.
CREATE TABLE suppression_key (
    version INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    made_at INTEGER,    -- since when it is live; NULL: since the database was made
    retired_at INTEGER
);

-- Equal exact keys have equal wide keys, so one seek on wide_key finds both kinds of match.
CREATE TABLE suppression (
    wide_key BLOB NOT NULL,
    exact_key BLOB NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('all', 'marketing') OR scope GLOB 'brand:?*'
                               OR scope GLOB 'purpose:?*'),
    origin TEXT NOT NULL CHECK (origin IN ('unsubscribe', 'complaint', 'bounce', 'objection',
                                           'erasure', 'manual', 'external')),
    since INTEGER NOT NULL,
    key_version INTEGER NOT NULL,
    note TEXT,
    -- Whose state it is in: the number of an import, NULL when anybody else wrote it last.
    import INTEGER,
    also INTEGER,  -- who else said the same; 0: not imports alone
    earlier TEXT,  -- what it was: [[since, note, import, also], ...]
    -- When it was added or moved forward here, when a recipient last matched it, or when the
    -- purge removed a contact that held the address: the last of these. It lasts from there.
    renewed_at INTEGER,
    PRIMARY KEY (wide_key, exact_key, scope, origin)
) WITHOUT ROWID;

-- What was lifted, by which reason: nothing that a person asked for vanishes without a trace.
CREATE TABLE lifted_suppression (
    id INTEGER PRIMARY KEY,
    wide_key BLOB NOT NULL,
    exact_key BLOB NOT NULL,
    scope TEXT NOT NULL,
    origin TEXT NOT NULL,
    since INTEGER NOT NULL,
    key_version INTEGER NOT NULL,
    note TEXT,
    lifted_at INTEGER NOT NULL,
    reason TEXT NOT NULL
);

CREATE INDEX lifted_suppression_key ON lifted_suppression (exact_key);

CREATE TABLE contact (
    id INTEGER PRIMARY KEY,
    address TEXT NOT NULL UNIQUE,
    audience TEXT NOT NULL,
    source TEXT,
    collected_at INTEGER,
    informed_at INTEGER,
    optout_offered INTEGER,    -- NULL: not on record
    last_activity_at INTEGER,
    occupations TEXT,
    tags TEXT,
    supplier TEXT,
    sender_disclosed INTEGER,  -- NULL: no provenance at all; 2: not on record
    purchases TEXT,            -- [[product, at], ...]; one that is no sale has its kind third
    as_of INTEGER,             -- the age of the source that the profile is from
    -- What few have: the chain of hands, first contact, objection to profiling,
    -- language, preferences, the brand, other collections; an object.
    -- One column for all: each costs the mail path a seventh of a microsecond.
    more TEXT,
    import INTEGER,                -- whose state it is in, as above
    withdrawal_confirmed INTEGER,  -- one was told by several
    told TEXT,                     -- what later imports said again: [[import, [sum, ...]], ...]
    undated_since INTEGER          -- without any date it counts from the first purge
);

-- A history: rows are added, and go only when their contact is erased.
CREATE TABLE consent_act (
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    withdrawal INTEGER NOT NULL,
    sequence INTEGER NOT NULL,  -- tells acts of one moment apart
    purpose TEXT NOT NULL,
    method TEXT,
    conditional INTEGER,        -- NULL: not on record
    channels TEXT,              -- NULL: e-mail alone
    wording TEXT,
    ip TEXT,
    -- What few have: more of the evidence, whether it is pending, brand, collection; an object.
    details TEXT,
    PRIMARY KEY (contact, at, withdrawal, sequence)
) WITHOUT ROWID;

-- What contacts refuse: what of it is still to be written to the journal of changes, and was lately.
CREATE TABLE refusal_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    action TEXT NOT NULL,      -- withdrawn, restricted, wished, profiling_objected
    purpose TEXT NOT NULL,     -- or the tag that restricts
    since INTEGER,             -- NULL: `details` or `at` tells
    details TEXT               -- those of the act; the preference; the moment: as JSON
);

CREATE INDEX refusal_change_contact ON refusal_change (contact);

CREATE TRIGGER refusal_change_withdrawn AFTER INSERT ON consent_act WHEN NEW.withdrawal BEGIN
    INSERT INTO refusal_change (at, contact, action, purpose, since, details)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
            NEW.contact, 'withdrawn', NEW.purpose, NEW.at, NEW.details);
END;

-- Tags are written by the store: which of them restrict is for the rulebooks to say.
CREATE TRIGGER refusal_change_of_new_contact AFTER INSERT ON contact
WHEN json_extract(NEW.more, '$.preferences') IS NOT NULL
  OR json_extract(NEW.more, '$.profiling_objected_at') IS NOT NULL BEGIN
    INSERT INTO refusal_change (at, contact, action, purpose, details)
    SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
           NEW.id, 'wished', '', value
    FROM json_each(NEW.more, '$.preferences');
    INSERT INTO refusal_change (at, contact, action, purpose, details)
    SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
           NEW.id, 'profiling_objected', '', json_extract(NEW.more, '$.profiling_objected_at')
    WHERE json_extract(NEW.more, '$.profiling_objected_at') IS NOT NULL;
END;

CREATE TRIGGER refusal_change_of_contact AFTER UPDATE OF more ON contact
WHEN json_extract(NEW.more, '$.preferences') IS NOT json_extract(OLD.more, '$.preferences')
  OR json_extract(NEW.more, '$.profiling_objected_at')
     IS NOT json_extract(OLD.more, '$.profiling_objected_at') BEGIN
    INSERT INTO refusal_change (at, contact, action, purpose, details)
    SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
           NEW.id, 'wished', '', value
    FROM json_each(NEW.more, '$.preferences')
    WHERE value NOT IN (SELECT value FROM json_each(OLD.more, '$.preferences'));
    INSERT INTO refusal_change (at, contact, action, purpose, details)
    SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
           NEW.id, 'profiling_objected', '', json_extract(NEW.more, '$.profiling_objected_at')
    WHERE json_extract(NEW.more, '$.profiling_objected_at') IS NOT NULL
      AND json_extract(NEW.more, '$.profiling_objected_at')
          IS NOT json_extract(OLD.more, '$.profiling_objected_at');
END;

CREATE TRIGGER consent_act_stays BEFORE UPDATE ON consent_act BEGIN
    SELECT RAISE(ABORT, 'consent acts are a history: add one instead');
END;

-- Kept by triggers, so that metrics never count millions of rows.
CREATE TABLE tally (
    kind TEXT NOT NULL,   -- contact, or the scope of suppressions
    origin TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (kind, origin)
) WITHOUT ROWID;

INSERT INTO tally (kind, origin, n)
SELECT kinds.value, origins.value, 0
FROM json_each('["all", "marketing", "brand", "purpose"]') AS kinds,
     json_each('["unsubscribe", "complaint", "bounce", "objection", "erasure", "manual",
                 "external"]') AS origins;
INSERT INTO tally (kind, origin, n) VALUES ('contact', '', 0);

CREATE TRIGGER suppression_added AFTER INSERT ON suppression BEGIN
    INSERT INTO tally (kind, origin, n) VALUES (NEW.scope, NEW.origin, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER suppression_removed AFTER DELETE ON suppression BEGIN
    UPDATE tally SET n = n - 1 WHERE kind = OLD.scope AND origin = OLD.origin;
END;

CREATE TRIGGER contact_added AFTER INSERT ON contact BEGIN
    UPDATE tally SET n = n + 1 WHERE kind = 'contact' AND origin = '';
END;

CREATE TRIGGER contact_removed AFTER DELETE ON contact BEGIN
    UPDATE tally SET n = n - 1 WHERE kind = 'contact' AND origin = '';
END;

CREATE TRIGGER suppression_lasts_from_now AFTER INSERT ON suppression
WHEN NEW.renewed_at IS NULL BEGIN
    UPDATE suppression SET renewed_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000
    WHERE wide_key = NEW.wide_key AND exact_key = NEW.exact_key
      AND scope = NEW.scope AND origin = NEW.origin;
END;

CREATE TRIGGER suppression_lasts_anew AFTER UPDATE OF since ON suppression
WHEN NEW.since > OLD.since BEGIN
    UPDATE suppression SET renewed_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000
    WHERE wide_key = NEW.wide_key AND exact_key = NEW.exact_key
      AND scope = NEW.scope AND origin = NEW.origin;
END;

-- A history, as the acts are.
CREATE TABLE rectification (
    id INTEGER PRIMARY KEY,
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    changes TEXT NOT NULL  -- a list of objects: field, before, after
);

CREATE INDEX rectification_contact ON rectification (contact);

CREATE TRIGGER rectification_stays BEFORE UPDATE OF at, reason, changes ON rectification BEGIN
    SELECT RAISE(ABORT, 'rectifications are a history: add one instead');
END;

-- imports: which brought what, so that it can be gone on with and undone

CREATE TABLE import (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- stands in the rows that it wrote
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,    -- an object
    first_contact INTEGER,   -- the new contacts are among these
    last_contact INTEGER,
    undo_cursor TEXT         -- how far an undo has come
);

-- What a contact was before an import changed it, or after: before somebody else did.
CREATE TABLE contact_version (
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    import INTEGER,          -- whose state it was
    replaced_by INTEGER,     -- by which import; NULL: by anybody else
    state TEXT NOT NULL,
    PRIMARY KEY (contact, number)
) WITHOUT ROWID;

-- webhooks

-- What changed, in order, for everybody else who must stop too. Triggers write it, so that
-- no way of adding or lifting can forget to. A suppression that merely goes (purged, or put
-- under another key) is no order to mail again: only what is put on record as lifted is.
-- The number of a row is never used again, so a reader can tell what it has not seen.
CREATE TABLE suppression_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    action TEXT NOT NULL,  -- added, moved, lifted; else what `stream_event` or `event` is about
    wide_key BLOB,
    exact_key BLOB,
    scope TEXT,
    origin TEXT,
    since INTEGER,
    key_version INTEGER,
    stream_event INTEGER,
    event TEXT,            -- an object, and what tells it from all others
    event_key TEXT
);

CREATE UNIQUE INDEX suppression_change_event ON suppression_change (event_key)
WHERE event_key IS NOT NULL;

-- How far those have come who write events, each in its own form.
CREATE TABLE event_source (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL
) WITHOUT ROWID;

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

-- How far each webhook is. The webhooks process writes it; `woken` is for people who want a retry.
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

-- streams

-- Those that are paused, or all of a brand. Every reader reads it whole after each commit.
CREATE TABLE stream_pause (
    subject TEXT PRIMARY KEY,  -- stream:NAME or brand:NAME
    at INTEGER NOT NULL,
    cause TEXT NOT NULL,       -- what was heard too often, or person
    until INTEGER,             -- NULL: until a person resumes it
    reason TEXT
) WITHOUT ROWID;

-- A history: how that came.
CREATE TABLE stream_event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    action TEXT NOT NULL,      -- warned, paused, resumed
    cause TEXT NOT NULL,
    reports INTEGER NOT NULL,  -- of so many messages, which reached this bound (per million)
    messages INTEGER NOT NULL,
    bound INTEGER NOT NULL,
    until INTEGER,
    reason TEXT
);

CREATE TRIGGER stream_event_is_told AFTER INSERT ON stream_event BEGIN
    INSERT INTO suppression_change (at, action, stream_event)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000, 'stream', NEW.id);
END;
