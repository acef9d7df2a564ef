"""Chat with a LLaMA model on the CPU: the whole engine in a few hundred lines of PyTorch."""

__version__ = "0.1.0"
