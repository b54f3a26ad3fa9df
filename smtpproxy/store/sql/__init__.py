"""A store in a database that speaks SQL: all that does not depend on which one it is."""
