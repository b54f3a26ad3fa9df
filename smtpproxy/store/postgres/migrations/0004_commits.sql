-- For `store.replica_url`, and failover.

-- Tells a commit from others of the same version: a server that took over from another may lack the
-- last ones, and have its own in their place. Whoever writes, by whatever program, makes a new one.
ALTER TABLE store_state ADD COLUMN commit_id uuid NOT NULL DEFAULT gen_random_uuid();

CREATE FUNCTION name_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.commit_id = gen_random_uuid();
    RETURN NEW;
END $$;

CREATE TRIGGER named BEFORE UPDATE ON store_state FOR EACH ROW EXECUTE FUNCTION name_commit();
