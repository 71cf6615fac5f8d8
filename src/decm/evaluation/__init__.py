"""Is it any good: generation from seeds, judges, distances between distributions, errors against exact flows."""
