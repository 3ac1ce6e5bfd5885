"""Benchmarks of tools/benchmark.py, one per module."""
