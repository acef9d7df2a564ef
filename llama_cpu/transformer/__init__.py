"""The LLaMA forward pass. It knows token ids and tensors; no text, no files."""
