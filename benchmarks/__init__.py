"""Measurements, as ratios in one run against a named baseline. docs/benchmarks.md says what they found."""
