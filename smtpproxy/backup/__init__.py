"""Backup and restore of what the relay knows (docs/operations.md, docs/adr/0033-backup.md)."""
