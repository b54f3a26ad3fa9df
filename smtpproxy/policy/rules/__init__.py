"""The rules, one subject a file; `table` puts them in their order."""
