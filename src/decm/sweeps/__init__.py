"""Many runs: the jobs of a sweep, where they are done, and their table."""
