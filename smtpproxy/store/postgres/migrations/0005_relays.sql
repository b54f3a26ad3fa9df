-- What relays have to know of each other.

-- Keys that links were sealed under; new ones are under the newest.
CREATE TABLE link_key (
    version bigint PRIMARY KEY,
    fingerprint text NOT NULL,
    used_from bigint NOT NULL,
    retired_at bigint
);

-- What each relay told last: JSON, of its keys and of what its configuration names.
CREATE TABLE relay (
    id text COLLATE "C" PRIMARY KEY,
    at bigint NOT NULL,
    state text NOT NULL
);
