"""Arithmetic in Python that is compiled for this processor; ``forward.py`` is a whole pass."""
