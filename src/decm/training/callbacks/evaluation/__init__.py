"""Previews and scores during a run."""
