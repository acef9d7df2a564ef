"""Carry out actions. They know protocols of the view (view.py), no screens and no widgets."""
