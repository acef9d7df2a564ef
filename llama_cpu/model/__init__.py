"""Token ids to logits: configurations, architectures, rotary embedding and the KV cache."""
