"""From prompt token ids to a stream of events."""
