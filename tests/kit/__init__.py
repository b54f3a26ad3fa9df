"""The base of tests and benchmarks: real programs, started and reliably ended."""
