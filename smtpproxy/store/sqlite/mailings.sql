-- Who was mailed when on marketing streams: a file of its own, since the mail path writes it.
-- Times are microseconds since 1970 in UTC; a person is a keyed hash of the canonical address.

CREATE TABLE secret (octets BLOB NOT NULL);
INSERT INTO secret VALUES (randomblob(32));

CREATE TABLE mailing (
    person BLOB NOT NULL,
    at INTEGER NOT NULL,
    id TEXT NOT NULL,      -- of the decision
    stream TEXT NOT NULL,
    PRIMARY KEY (person, at, id)
) WITHOUT ROWID;

CREATE TABLE first_mailing (
    person BLOB PRIMARY KEY,
    at INTEGER NOT NULL,
    id TEXT NOT NULL
) WITHOUT ROWID;
