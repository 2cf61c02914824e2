"""Which pieces of an input both models decide by."""
