"""DKIM without keys or network (RFC 6376): canonical forms, signature fields, key records."""
