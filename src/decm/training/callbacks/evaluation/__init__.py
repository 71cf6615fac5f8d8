"""Previews, scores and progress during a run."""
