"""Backup and restore of a relay's data (docs/operations.md, docs/adr/0033-backup.md)."""
