"""From checkpoints to other checkpoints: merge, split, quantise ahead of time."""
