"""Edits, on a living model and for good: masks that can be taken back, and the surgery that is done once."""
