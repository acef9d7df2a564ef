"""The settings of a conversation, and the user's config.toml."""
