"""The speed of a model on this machine, beside the machine's limits and llama.cpp."""
