-- Who said how often they want mail: few, and to be found by the brand that they said it of.
CREATE INDEX contact_wish ON contact (id) WHERE more LIKE '%"preferences":%';
