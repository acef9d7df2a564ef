"""KV caches on disk: file format, index, limits, and fingerprint of the weights."""
