"""What a run folder is: its names, settings, results, state and lock, and which process is the first."""
