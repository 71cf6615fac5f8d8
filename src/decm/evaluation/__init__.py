"""Is it any good: generation from seeds, features, distances between distributions, errors against exact flows."""
