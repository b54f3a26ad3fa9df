-- More of a consent act and of a contact than the first tables keep, and what was put right.

-- What few acts have: the rest of the evidence, and whether it is pending; an object.
ALTER TABLE consent_act ADD COLUMN details TEXT;

-- A purchase that is no sale has its kind as a third member: [product, at, kind].
-- What few contacts have: the chain of hands, first contact, objection to profiling; an object.
-- One column for all: each costs the mail path a seventh of a microsecond.
ALTER TABLE contact ADD COLUMN more TEXT;

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
