"""What the keys of the chat do: turns, answers, conversations, and changing the model."""
