"""A conversation with a loaded model."""
