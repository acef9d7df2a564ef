"""The models: configurations, architectures, rotary embedding and the KV cache."""
