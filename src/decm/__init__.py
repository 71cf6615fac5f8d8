"""decm: distill a flow-matching teacher into a generator that needs 1, 2, 4 or 50 steps."""

__version__ = "0.1.0"
