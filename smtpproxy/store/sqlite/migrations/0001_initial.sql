-- Times are microseconds since 1970 in UTC; lists are JSON, NULL when empty.

-- The fingerprint of each key that suppressions are stored under.
CREATE TABLE suppression_key (
    version INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL
);

-- Equal exact keys have equal wide keys, so one seek on wide_key finds both kinds of match.
CREATE TABLE suppression (
    wide_key BLOB NOT NULL,
    exact_key BLOB NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('all', 'marketing') OR scope GLOB 'purpose:?*'),
    origin TEXT NOT NULL CHECK (origin IN ('unsubscribe', 'complaint', 'bounce', 'objection',
                                           'erasure', 'manual', 'external')),
    since INTEGER NOT NULL,
    key_version INTEGER NOT NULL,
    note TEXT,
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
    purchases TEXT,            -- [[product, at], ...]
    as_of INTEGER              -- the age of the source that the profile is from
);

-- A history: rows are added, and go only when their contact is erased.
CREATE TABLE consent_act (
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    withdrawal INTEGER NOT NULL,
    sequence INTEGER NOT NULL,  -- tells acts of one moment apart
    purpose TEXT NOT NULL,
    method TEXT,
    conditional INTEGER NOT NULL,
    channels TEXT,              -- NULL: e-mail alone
    wording TEXT,
    ip TEXT,
    PRIMARY KEY (contact, at, withdrawal, sequence)
) WITHOUT ROWID;

CREATE TRIGGER consent_act_stays BEFORE UPDATE ON consent_act BEGIN
    SELECT RAISE(ABORT, 'consent acts are a history: add one instead');
END;

-- Kept by triggers, so that metrics never count millions of rows.
CREATE TABLE tally (
    kind TEXT NOT NULL,   -- contact, or the scope kind of suppressions
    origin TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (kind, origin)
) WITHOUT ROWID;

INSERT INTO tally (kind, origin, n)
SELECT kinds.value, origins.value, 0
FROM json_each('["all", "marketing", "purpose"]') AS kinds,
     json_each('["unsubscribe", "complaint", "bounce", "objection", "erasure", "manual",
                 "external"]') AS origins;
INSERT INTO tally (kind, origin, n) VALUES ('contact', '', 0);

CREATE TRIGGER suppression_added AFTER INSERT ON suppression BEGIN
    UPDATE tally SET n = n + 1
    WHERE kind = CASE WHEN NEW.scope IN ('all', 'marketing') THEN NEW.scope ELSE 'purpose' END
      AND origin = NEW.origin;
END;

CREATE TRIGGER suppression_removed AFTER DELETE ON suppression BEGIN
    UPDATE tally SET n = n - 1
    WHERE kind = CASE WHEN OLD.scope IN ('all', 'marketing') THEN OLD.scope ELSE 'purpose' END
      AND origin = OLD.origin;
END;

CREATE TRIGGER contact_added AFTER INSERT ON contact BEGIN
    UPDATE tally SET n = n + 1 WHERE kind = 'contact' AND origin = '';
END;

CREATE TRIGGER contact_removed AFTER DELETE ON contact BEGIN
    UPDATE tally SET n = n - 1 WHERE kind = 'contact' AND origin = '';
END;
