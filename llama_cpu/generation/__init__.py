"""Generation: from the token ids of a prompt to a stream of events."""
