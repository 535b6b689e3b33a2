"""The live page: a subscriber of its own process, that costs the stream nothing."""
