"""Checkpoints to other checkpoints: merge, split, and quantize ahead of time."""
