"""How contacts and suppressions travel: NDJSON and CSV, read and written line by line.

Files may be of any size and in any state: a line that cannot be read is put aside with
its reason, the rest is imported, and memory stays bounded (docs/data.md).
"""
