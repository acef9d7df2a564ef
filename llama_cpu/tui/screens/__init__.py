"""Screens connect widgets and controllers; they know nothing of the app."""
