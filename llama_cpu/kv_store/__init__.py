"""KV caches on disk."""
