"""Reading and writing contacts and suppressions, line by line, as NDJSON and CSV.

Files may be of any size and quality: a line that cannot be read is rejected with its reason,
the rest is imported, and memory stays bounded (docs/data.md).
"""
