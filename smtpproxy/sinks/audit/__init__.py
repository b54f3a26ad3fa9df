"""The audit log: an append-only journal of decisions, chained and anchored (docs/audit.md)."""
