-- Messages that came back to another relay than the one that sent them, which has their record.
CREATE TABLE asked_message (
    id text COLLATE "C" PRIMARY KEY,  -- of the decision
    at bigint NOT NULL,               -- when it was first asked for
    relay text,                       -- that has answered; an erasure takes the answer back
    answered_at bigint,
    answer text                       -- JSON; NULL in an answer: no record is left
);
