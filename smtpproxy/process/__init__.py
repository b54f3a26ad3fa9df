"""The processes of a running relay: a supervisor, its workers and the web process."""
