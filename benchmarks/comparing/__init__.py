"""The parts of benchmarks/compare.py and benchmarks/results.py."""
