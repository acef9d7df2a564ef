"""The commands of ``llama-cpu``, one file each."""
