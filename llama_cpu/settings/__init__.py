"""The settings of a conversation, and config.toml."""
