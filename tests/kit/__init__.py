"""What tests and benchmarks stand on: real programs, started and surely ended."""
