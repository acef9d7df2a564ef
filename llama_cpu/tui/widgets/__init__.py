"""A widget shows one thing. It is given data and callables, and posts Textual messages."""
