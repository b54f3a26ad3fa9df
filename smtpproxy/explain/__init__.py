"""Why mail may or may not go, in plain words; the mail path runs none of this."""
