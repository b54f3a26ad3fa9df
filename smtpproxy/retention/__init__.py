"""Retention: what has outlived its period is removed, daily or by hand (docs/data.md)."""
