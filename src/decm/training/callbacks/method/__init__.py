"""The method: trajectories and averages."""
