"""What the figures suggest, with the figures behind it."""
