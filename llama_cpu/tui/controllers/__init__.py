"""Controllers carry out actions. They know the protocols of view.py, no screens or widgets."""
