-- Imports that are undone are written to the journal of changes as well. For a while 0001 made
-- databases that way itself, so both kinds come here.
DROP TRIGGER IF EXISTS refusal_change_import_undone;
CREATE TABLE refusal_change_before AS SELECT * FROM refusal_change;
-- A number is never given again, whatever rows are left.
UPDATE sqlite_sequence SET name = 'refusal_change_before' WHERE name = 'refusal_change';
DROP TABLE refusal_change;

-- What contacts refuse, and imports that are undone: what of it is still to be written to the
-- journal of changes, and was lately.
CREATE TABLE refusal_change (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    contact INTEGER REFERENCES contact (id) ON DELETE CASCADE,
    action TEXT NOT NULL,      -- withdrawn, restricted, wished, profiling_objected, import_undone
    purpose TEXT NOT NULL,     -- or the tag that restricts, or the id of the import
    since INTEGER,             -- NULL: `details` or `at` tells
    details TEXT               -- those of the act; the preference; the moment: as JSON
);

UPDATE sqlite_sequence SET name = 'refusal_change' WHERE name = 'refusal_change_before';
INSERT INTO refusal_change (seq, at, contact, action, purpose, since, details)
SELECT seq, at, contact, action, purpose, since, details FROM refusal_change_before;
DROP TABLE refusal_change_before;
CREATE INDEX refusal_change_contact ON refusal_change (contact);

CREATE TRIGGER refusal_change_import_undone AFTER UPDATE OF record ON import
WHEN json_extract(NEW.record, '$.state') IN ('undoing', 'undone')
  AND coalesce(json_extract(OLD.record, '$.state'), '') NOT IN ('undoing', 'undone') BEGIN
    INSERT INTO refusal_change (at, action, purpose)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000,
            'import_undone', NEW.id);
END;

-- Those that were undone before, which no journal may know: undoing one twice does no harm.
INSERT INTO refusal_change (at, action, purpose)
SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000, 'import_undone', id
FROM import
WHERE json_extract(record, '$.state') IN ('undoing', 'undone')
  AND id NOT IN (SELECT purpose FROM refusal_change WHERE action = 'import_undone')
ORDER BY number;
