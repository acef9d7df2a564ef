"""A checkpoint to a model that is ready to run, and where models are found."""
