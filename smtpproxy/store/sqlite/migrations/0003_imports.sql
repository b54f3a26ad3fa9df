-- Which import brought what, so that it can be gone on with and undone.

CREATE TABLE import (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- stands in the rows that it wrote
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,    -- an object
    first_contact INTEGER,   -- the new contacts are among these
    last_contact INTEGER,
    undo_cursor TEXT         -- how far an undo has come
);

-- Whose state a row is in: the number of an import, NULL when anybody else wrote it last.
ALTER TABLE suppression ADD COLUMN import INTEGER;
ALTER TABLE suppression ADD COLUMN also INTEGER;  -- who else said the same; 0: not imports alone
ALTER TABLE suppression ADD COLUMN earlier TEXT;  -- what it was: [[since, note, import, also], ...]

ALTER TABLE contact ADD COLUMN import INTEGER;
ALTER TABLE contact ADD COLUMN withdrawal_confirmed INTEGER;  -- one was told by several
ALTER TABLE contact ADD COLUMN told TEXT;  -- what later imports said again: [[import, [sum, ...]], ...]

-- What a contact was before an import changed it, or after: before somebody else did.
CREATE TABLE contact_version (
    contact INTEGER NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    import INTEGER,          -- whose state it was
    replaced_by INTEGER,     -- by which import; NULL: by anybody else
    state TEXT NOT NULL,
    PRIMARY KEY (contact, number)
) WITHOUT ROWID;
