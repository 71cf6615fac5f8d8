"""What benchmarks/step.py and benchmarks/largest.py measure, and how."""
