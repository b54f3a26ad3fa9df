-- For `smtpproxy store copy`.

-- Each part of a store in SQLite has its own; NULL: of all others.
ALTER TABLE secret ADD COLUMN part text UNIQUE;

-- Where the store was copied to, which counts now: nothing is answered from here any more.
ALTER TABLE store_state ADD COLUMN moved_to text;

-- Closing the store puts it on every table.
CREATE FUNCTION is_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;
