-- To whom a text went: a file of its own, since the mail path writes it. A text is the hash of
-- its masked form, a person a keyed hash; times are microseconds since 1970 in UTC.

CREATE TABLE secret (octets BLOB NOT NULL);
INSERT INTO secret VALUES (randomblob(32));

CREATE TABLE alike (
    fingerprint BLOB NOT NULL,
    person BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, person)
) WITHOUT ROWID;

CREATE INDEX alike_at ON alike (at)
