-- How long what is kept.

-- When the suppression was added or moved forward here, when a recipient last matched it, or
-- when the purge removed a contact that held the address: the last of these. It lasts from
-- there. Of a database that was there before, it is when this was begun.
ALTER TABLE suppression ADD COLUMN renewed_at INTEGER;

UPDATE suppression SET renewed_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;

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

-- A contact without any date counts from the first purge that found it so.
ALTER TABLE contact ADD COLUMN undated_since INTEGER;

-- Up to which row the matches of each slot of the audit journal have renewed suppressions.
CREATE TABLE journal_read (
    slot INTEGER PRIMARY KEY,
    n INTEGER NOT NULL
);
