"""Trained models as files: checkpoints and exported folders read back, what they may call, and states as pictures."""
