"""Compiled kernels: products, attention and a whole pass, written in Python."""
