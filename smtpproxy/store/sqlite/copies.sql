-- Copies that were mailed of messages whose client has no final answer yet.
CREATE TABLE secret (octets BLOB NOT NULL);
INSERT INTO secret VALUES (randomblob(32));
CREATE TABLE copy (
    message BLOB NOT NULL, -- keyed hash of reverse path and content
    recipient BLOB NOT NULL, -- keyed hash of the forward path
    at INTEGER NOT NULL, -- microseconds since 1970
    PRIMARY KEY (message, recipient)
) WITHOUT ROWID;
CREATE INDEX copy_at ON copy (at)
