-- Keys that links were sealed under; new ones are under the newest.
CREATE TABLE link_key (
    version INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    used_from INTEGER NOT NULL,
    retired_at INTEGER
);

-- What each relay told last: JSON, of its keys and of what its configuration names.
CREATE TABLE relay (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    state TEXT NOT NULL
) WITHOUT ROWID;
