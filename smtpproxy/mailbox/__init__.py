"""The feedback mailbox: receives what comes back by mail, and acts on it."""
