"""Judges a list before a campaign: who may be mailed on a stream, and why the others may not."""
