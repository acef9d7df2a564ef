"""The operating system: memory, processor, process, files and paths."""
