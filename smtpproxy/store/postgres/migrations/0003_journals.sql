-- The audit journals of relays stay on their disks. Here stands what all relays know of them.

-- Each relay says what it has done. `rows`: by slot, the last row that is in the index.
CREATE TABLE journal (
    relay text COLLATE "C" PRIMARY KEY,  -- its relay.id
    host text NOT NULL,                  -- for people
    told_at bigint NOT NULL,
    erased bigint NOT NULL DEFAULT 0,    -- the newest erasure that it has carried out
    rows text NOT NULL DEFAULT '{}'
);

-- Of whom every journal has to be rid; a person as a keyed hash.
CREATE TABLE journal_erasure (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person bytea NOT NULL,
    at bigint NOT NULL
);

-- The index of decisions: one row for each recipient. The record itself is a line of a journal.
CREATE TABLE decision (
    relay text COLLATE "C" NOT NULL,
    file text COLLATE "C" NOT NULL,
    line bigint NOT NULL,         -- the number of the row in the slot
    recipient smallint NOT NULL,  -- its place in the decision
    id text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    brand text COLLATE "C" NOT NULL,
    verdict text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    observed boolean NOT NULL,
    person bytea,                 -- NULL: erased
    PRIMARY KEY (relay, file, line, recipient)
);
CREATE INDEX decision_id ON decision (id);
CREATE INDEX decision_at ON decision (at);
CREATE INDEX decision_person ON decision (person, at) WHERE person IS NOT NULL;
