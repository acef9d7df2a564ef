"""Token ids to logits: configuration, architectures, attention, and KV cache."""
