"""The core's inline functions, one by one, for tests and micro-benchmarks."""
