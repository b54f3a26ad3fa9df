-- What consent was ever recorded for, so that a name which no configuration has is noticed.
CREATE TABLE consent_purpose (purpose TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO consent_purpose SELECT DISTINCT purpose FROM consent_act;
CREATE TRIGGER consent_purposes AFTER INSERT ON consent_act BEGIN
    INSERT OR IGNORE INTO consent_purpose VALUES (NEW.purpose);
END;
