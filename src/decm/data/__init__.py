"""Data x and labels y: every set has a manifest, and sample i of a run is a function of (seed, i)."""
