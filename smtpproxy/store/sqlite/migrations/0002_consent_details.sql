-- More of a consent act and of a contact than the first tables keep, and what was put right.

ALTER TABLE consent_act ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;
ALTER TABLE consent_act ADD COLUMN details TEXT;  -- the rest of the evidence, as an object

-- A purchase that is no sale has its kind as a third member: [product, at, kind].
ALTER TABLE contact ADD COLUMN chain TEXT;        -- the hands an address went through
ALTER TABLE contact ADD COLUMN first_contacted_at INTEGER;
ALTER TABLE contact ADD COLUMN profiling_objected_at INTEGER;

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
