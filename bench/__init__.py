"""Benchmarks: each `make bench-NAME` measures side by side in one run and prints ratios."""
