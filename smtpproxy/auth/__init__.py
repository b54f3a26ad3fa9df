"""Who clients are: the file of users, and the checking of what they claim."""
