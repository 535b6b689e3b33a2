"""Simulated events for tests, demonstrations and training: what the published experiments recorded."""
