"""What to look at when a run is over."""
