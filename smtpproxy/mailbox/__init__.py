"""The feedback mailbox: takes in what comes back by mail, and does what follows from it."""
