-- Times are microseconds since 1970 in UTC; lists are JSON, NULL when empty; flags are 0 and 1.
-- The columns are those of SQLite (sqlite/migrations), whose comments say what they are for.

-- Lists come as JSON, and are read by the names that SQLite has for it.
CREATE FUNCTION json_each(list text, OUT key integer, OUT value text) RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100 AS $$
    SELECT place::integer - 1, element FROM json_array_elements_text(list::json)
        WITH ORDINALITY AS found (element, place)
$$;

CREATE FUNCTION json_extract(value text, path text) RETURNS text  -- '$[0]', '$.state'
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT value::json #>> ARRAY[translate(path, '$[].', '')]
$$;

CREATE FUNCTION now_in_microseconds() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint * 1000
$$;

-- One row. Whoever writes what the mail path reads counts its version up, once in a transaction,
-- and so waits for whoever did before: there is one writer at a time, as with SQLite.
CREATE TABLE store_state (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    version bigint NOT NULL DEFAULT 0,
    written_in xid8 NOT NULL DEFAULT '0'
) WITH (fillfactor = 50);
INSERT INTO store_state DEFAULT VALUES;

CREATE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE store_state SET version = version + 1, written_in = pg_current_xact_id()
    WHERE written_in <> pg_current_xact_id();
    RETURN NULL;
END $$;

-- Keys the hashes of persons in the counts.
CREATE TABLE secret (octets bytea NOT NULL);
INSERT INTO secret SELECT decode(replace(gen_random_uuid()::text || gen_random_uuid(), '-', ''), 'hex');

CREATE TABLE suppression_key (
    version bigint PRIMARY KEY,
    fingerprint text NOT NULL,
    made_at bigint,
    retired_at bigint
);

CREATE TABLE suppression (
    wide_key bytea NOT NULL,
    exact_key bytea NOT NULL,
    scope text COLLATE "C" NOT NULL
        CHECK (scope IN ('all', 'marketing') OR scope ~ '^(brand|purpose):.'),
    origin text COLLATE "C" NOT NULL
        CHECK (origin IN ('unsubscribe', 'complaint', 'bounce', 'objection', 'erasure', 'manual',
                          'external')),
    since bigint NOT NULL,
    key_version bigint NOT NULL,
    note text,
    import bigint,
    also bigint,
    earlier text,
    renewed_at bigint,
    PRIMARY KEY (wide_key, exact_key, scope, origin)
);

CREATE TABLE lifted_suppression (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wide_key bytea NOT NULL,
    exact_key bytea NOT NULL,
    scope text NOT NULL,
    origin text NOT NULL,
    since bigint NOT NULL,
    key_version bigint NOT NULL,
    note text,
    lifted_at bigint NOT NULL,
    reason text NOT NULL
);
CREATE INDEX lifted_suppression_key ON lifted_suppression (exact_key);

CREATE TABLE contact (
    id bigint PRIMARY KEY,
    address text COLLATE "C" NOT NULL UNIQUE,
    audience text NOT NULL,
    source text,
    collected_at bigint,
    informed_at bigint,
    optout_offered bigint,
    last_activity_at bigint,
    occupations text,
    tags text,
    supplier text,
    sender_disclosed bigint,
    purchases text,
    as_of bigint,
    more text,
    import bigint,
    withdrawal_confirmed bigint,
    told text,
    undated_since bigint
);

CREATE TABLE consent_act (
    contact bigint NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    at bigint NOT NULL,
    withdrawal bigint NOT NULL,
    sequence bigint NOT NULL,
    purpose text NOT NULL,
    method text,
    conditional bigint,
    channels text,
    wording text,
    ip text,
    details text,
    PRIMARY KEY (contact, at, withdrawal, sequence)
);

CREATE TABLE rectification (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    contact bigint NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    at bigint NOT NULL,
    reason text NOT NULL,
    changes text NOT NULL
);
CREATE INDEX rectification_contact ON rectification (contact);

CREATE FUNCTION is_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is a history: add a row instead', TG_TABLE_NAME;
END $$;
CREATE TRIGGER consent_act_stays BEFORE UPDATE ON consent_act
    FOR EACH ROW EXECUTE FUNCTION is_history();
CREATE TRIGGER rectification_stays BEFORE UPDATE OF at, reason, changes ON rectification
    FOR EACH ROW EXECUTE FUNCTION is_history();

-- Kept by triggers, so that metrics never count millions of rows.
CREATE TABLE tally (
    kind text NOT NULL,    -- contact, or the scope of suppressions
    origin text NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (kind, origin)
) WITH (fillfactor = 50);
INSERT INTO tally SELECT kind, origin, 0
FROM unnest(ARRAY['all', 'marketing', 'brand', 'purpose']) AS kind,
     unnest(ARRAY['unsubscribe', 'complaint', 'bounce', 'objection', 'erasure', 'manual',
                  'external']) AS origin;
INSERT INTO tally VALUES ('contact', '', 0);

CREATE FUNCTION tally_suppressions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tally
    SELECT scope, changed.origin, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
    FROM changed GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (kind, origin) DO UPDATE SET n = tally.n + excluded.n;
    RETURN NULL;
END $$;
CREATE TRIGGER suppressions_added AFTER INSERT ON suppression REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_suppressions();
CREATE TRIGGER suppressions_removed AFTER DELETE ON suppression REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_suppressions();

CREATE FUNCTION tally_contacts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tally SET n = n + CASE TG_OP WHEN 'INSERT' THEN many ELSE -many END
    FROM (SELECT count(*) AS many FROM changed) AS counted WHERE kind = 'contact' AND many > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER contacts_added AFTER INSERT ON contact REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_contacts();
CREATE TRIGGER contacts_removed AFTER DELETE ON contact REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_contacts();

CREATE FUNCTION suppression_lasts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.renewed_at = now_in_microseconds() / 1000000 * 1000000;
    RETURN NEW;
END $$;
CREATE TRIGGER suppression_lasts_from_now BEFORE INSERT ON suppression
    FOR EACH ROW WHEN (NEW.renewed_at IS NULL) EXECUTE FUNCTION suppression_lasts();
CREATE TRIGGER suppression_lasts_anew BEFORE UPDATE OF since ON suppression
    FOR EACH ROW WHEN (NEW.since > OLD.since) EXECUTE FUNCTION suppression_lasts();

-- imports

CREATE TABLE import (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    record text NOT NULL,
    first_contact bigint,
    last_contact bigint,
    undo_cursor text
);

CREATE TABLE contact_version (
    contact bigint NOT NULL REFERENCES contact (id) ON DELETE CASCADE,
    number bigint NOT NULL,
    import bigint,
    replaced_by bigint,
    state text NOT NULL,
    PRIMARY KEY (contact, number)
);

-- webhooks

-- The number of the newest change there ever was. As a row, not a sequence: the numbers are in the
-- order of the commits, without a gap, so a reader misses none that is committed late.
CREATE TABLE change_number (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    newest bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO change_number DEFAULT VALUES;

CREATE FUNCTION next_change() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    UPDATE change_number SET newest = newest + 1 RETURNING newest
$$;

CREATE FUNCTION next_changes(many bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    UPDATE change_number SET newest = newest + many RETURNING newest - many
$$;

CREATE TABLE suppression_change (
    seq bigint PRIMARY KEY DEFAULT next_change(),
    at bigint NOT NULL,
    action text NOT NULL,
    wide_key bytea,
    exact_key bytea,
    scope text,
    origin text,
    since bigint,
    key_version bigint,
    stream_event bigint,
    event text,
    event_key text
);
CREATE UNIQUE INDEX suppression_change_event ON suppression_change (event_key)
WHERE event_key IS NOT NULL;

CREATE TABLE event_source (
    name text PRIMARY KEY,
    state text NOT NULL
);

CREATE FUNCTION log_suppressions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before bigint := next_changes((SELECT count(*) FROM changed));
BEGIN
    INSERT INTO suppression_change
        (seq, at, action, wide_key, exact_key, scope, origin, since, key_version)
    SELECT before + row_number() OVER (), now_in_microseconds(), TG_ARGV[0], wide_key, exact_key,
           scope, origin, since, key_version FROM changed;
    RETURN NULL;
END $$;
CREATE TRIGGER suppression_change_added AFTER INSERT ON suppression
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION log_suppressions('added');
CREATE TRIGGER suppression_change_lifted AFTER INSERT ON lifted_suppression
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION log_suppressions('lifted');

CREATE FUNCTION log_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO suppression_change
        (at, action, wide_key, exact_key, scope, origin, since, key_version)
    VALUES (now_in_microseconds(), 'moved', NEW.wide_key, NEW.exact_key, NEW.scope, NEW.origin,
            NEW.since, NEW.key_version);
    RETURN NULL;
END $$;
CREATE TRIGGER suppression_change_moved AFTER UPDATE OF since ON suppression
    FOR EACH ROW WHEN (NEW.since > OLD.since) EXECUTE FUNCTION log_moved();

CREATE TABLE webhook_state (
    name text PRIMARY KEY,
    position bigint NOT NULL,
    message_id text,
    message_end bigint,
    failures bigint NOT NULL DEFAULT 0,
    failing_since bigint,
    retry_at bigint,
    disabled_at bigint,
    last_error text,
    delivered_at bigint,
    woken bigint NOT NULL DEFAULT 0
);

CREATE TABLE webhook_dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook text NOT NULL,
    message_id text NOT NULL,
    body bytea NOT NULL,
    changes bigint NOT NULL,
    oldest_at bigint NOT NULL,
    died_at bigint NOT NULL,
    attempts bigint NOT NULL,
    error text NOT NULL,
    retry bigint NOT NULL DEFAULT 0
);

-- partners

CREATE TABLE partner_hash (
    exact_key bytea NOT NULL,
    key text NOT NULL,
    partner_wide bytea NOT NULL,
    partner_exact bytea NOT NULL,
    PRIMARY KEY (exact_key, key)
);

CREATE FUNCTION partner_hash_goes_too() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM partner_hash USING changed WHERE partner_hash.exact_key = changed.exact_key
    AND NOT EXISTS (SELECT 1 FROM suppression WHERE suppression.wide_key = changed.wide_key
                    AND suppression.exact_key = changed.exact_key);
    RETURN NULL;
END $$;
CREATE TRIGGER partner_hash_goes_too AFTER DELETE ON suppression REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION partner_hash_goes_too();

CREATE TABLE partner_snapshot (
    partner text PRIMARY KEY,
    key text NOT NULL,
    snapshot bigint NOT NULL,
    sender text NOT NULL,
    taken_at bigint NOT NULL,
    imported_at bigint NOT NULL,
    count bigint NOT NULL,
    digest text NOT NULL
);

CREATE TABLE partner_entry (
    snapshot bigint NOT NULL,
    wide_key bytea NOT NULL,
    exact_key bytea NOT NULL,
    scope text COLLATE "C" NOT NULL,
    origin text COLLATE "C" NOT NULL,
    since bigint NOT NULL,
    PRIMARY KEY (snapshot, wide_key, exact_key, scope, origin)
);

-- streams

CREATE TABLE stream_pause (
    subject text COLLATE "C" PRIMARY KEY,
    at bigint NOT NULL,
    cause text NOT NULL,
    until bigint,
    reason text
);

CREATE TABLE stream_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    subject text NOT NULL,
    action text NOT NULL,
    cause text NOT NULL,
    reports bigint NOT NULL,
    messages bigint NOT NULL,
    bound bigint NOT NULL,
    until bigint,
    reason text
);

CREATE FUNCTION stream_event_is_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO suppression_change (at, action, stream_event)
    VALUES (now_in_microseconds(), 'stream', NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER stream_event_is_told AFTER INSERT ON stream_event
    FOR EACH ROW EXECUTE FUNCTION stream_event_is_told();

-- What the mail path reads has a version, whoever writes it.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['suppression', 'suppression_key', 'contact', 'consent_act',
                                'partner_snapshot', 'stream_pause'] LOOP
        EXECUTE format('CREATE TRIGGER counts_version AFTER INSERT OR UPDATE OR DELETE ON %I
                        FOR EACH STATEMENT EXECUTE FUNCTION count_version()', name);
    END LOOP;
END $$;

-- What the mail path counts; persons are keyed hashes

CREATE TABLE mailing (
    person bytea NOT NULL,
    at bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    stream text NOT NULL,
    purpose text,
    brand text NOT NULL,
    PRIMARY KEY (person, at, id)
);
CREATE INDEX mailing_at ON mailing (at);

CREATE TABLE first_mailing (
    person bytea PRIMARY KEY,
    at bigint NOT NULL,
    id text NOT NULL
);
CREATE INDEX first_mailing_at ON first_mailing (at);

CREATE TABLE bulk (
    fingerprint bytea NOT NULL,
    person bytea NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (fingerprint, person)
);
CREATE INDEX bulk_at ON bulk (at);

CREATE TABLE copy (
    message bytea NOT NULL,
    recipient bytea NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (message, recipient)
);
CREATE INDEX copy_at ON copy (at);

CREATE TABLE answer (
    request bytea PRIMARY KEY,  -- keyed hash: of who asks, and of the key
    asked bytea NOT NULL,       -- keyed hash of what was asked
    at bigint NOT NULL,
    body bytea,                 -- NULL: it is being done
    version text                -- for its ETag
);
CREATE INDEX answer_at ON answer (at);

CREATE TABLE confirmation (
    person bytea NOT NULL,
    at bigint NOT NULL
);
CREATE INDEX confirmation_person ON confirmation (person);

CREATE TABLE stream_count (
    stream text NOT NULL,
    kind text NOT NULL,
    at bigint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (stream, kind, at)
);
CREATE INDEX stream_count_at ON stream_count (at);

CREATE TABLE heard (
    person bytea PRIMARY KEY,
    at bigint NOT NULL
);
CREATE INDEX heard_at ON heard (at);

CREATE TABLE campaign (
    key text PRIMARY KEY,
    stream text NOT NULL,
    people bigint NOT NULL,
    strangers bigint NOT NULL,
    dead bigint NOT NULL,
    full_at bigint,
    dead_at bigint,
    seen_at bigint NOT NULL
);

CREATE TABLE campaign_person (
    campaign text NOT NULL,
    person bytea NOT NULL,
    id text COLLATE "C" NOT NULL,
    dead bigint NOT NULL,
    PRIMARY KEY (campaign, person)
);
CREATE INDEX campaign_person_id ON campaign_person (id);

-- reports that came back by mail

CREATE TABLE report (
    id text COLLATE "C" PRIMARY KEY,
    at bigint NOT NULL,
    kind text NOT NULL,
    why text NOT NULL,
    kept bigint NOT NULL,
    mailbox text NOT NULL,  -- the relay that has the file
    erased boolean NOT NULL DEFAULT FALSE  -- and has to remove it
);
CREATE INDEX report_erased ON report (mailbox) WHERE erased;
CREATE INDEX report_at ON report (at);
CREATE INDEX report_kept ON report (at) WHERE kept = 1;

CREATE TABLE concerned (
    person bytea NOT NULL,
    report text NOT NULL,
    PRIMARY KEY (person, report)
);
CREATE INDEX concerned_report ON concerned (report);

CREATE TABLE event (
    key bytea PRIMARY KEY,
    at bigint NOT NULL
);
CREATE INDEX event_at ON event (at);

CREATE TABLE mailbox_full (
    person bytea NOT NULL,
    key bytea NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (person, key)
);

CREATE TABLE hand_on (
    key bytea PRIMARY KEY,
    report text COLLATE "C" NOT NULL,
    decision text NOT NULL,
    since bigint NOT NULL,
    tries bigint NOT NULL,
    due bigint,
    mailbox text NOT NULL
);
CREATE INDEX hand_on_due ON hand_on (mailbox, due) WHERE due IS NOT NULL;
CREATE INDEX hand_on_report ON hand_on (report);

CREATE TABLE total (
    kind text NOT NULL,
    stream text NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (kind, stream)
);
