"""Metrics of a predicted stain against the real one: pure functions on arrays."""
