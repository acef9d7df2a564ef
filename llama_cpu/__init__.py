"""Chat with a LLaMA-like model on the CPU, in the terminal, in plain PyTorch."""

__version__ = "0.1.0"
