-- What consent was ever recorded for, so that a name which no configuration has is noticed.
CREATE TABLE consent_purpose (purpose text COLLATE "C" PRIMARY KEY);
INSERT INTO consent_purpose SELECT DISTINCT purpose FROM consent_act;

CREATE FUNCTION note_purposes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO consent_purpose SELECT DISTINCT purpose FROM changed ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER consent_purposes AFTER INSERT ON consent_act REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_purposes();
