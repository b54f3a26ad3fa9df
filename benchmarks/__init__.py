"""The benchmark: one run, one table, ratios to the wire. See docs/benchmarks.md."""
