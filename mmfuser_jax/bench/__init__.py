"""Benchmarks: each row one thing measured against a named peer in the same run, as a ratio."""
