"""Conversion of checkpoints: merging, splitting, and quantising ahead of time."""
