"""A prompt to a stream of events: sampling, speculative decoding, detokenizer, timings."""
