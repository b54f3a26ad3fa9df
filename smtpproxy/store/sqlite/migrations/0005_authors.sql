-- Who wrote it, where that was a program over the API; NULL: anybody else, or not on record.
ALTER TABLE suppression ADD COLUMN given_by TEXT;
ALTER TABLE lifted_suppression ADD COLUMN given_by TEXT;
ALTER TABLE lifted_suppression ADD COLUMN lifted_by TEXT;
